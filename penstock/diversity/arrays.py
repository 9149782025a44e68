"""NumPy and torch behind one small set of operations, so that each algorithm here is written once.

An array is a NumPy array or a torch tensor (CPU or CUDA); what a function returns lives where its input lives. Both
libraries share most names (``sqrt``, ``exp``, ``where``, ``multiply(…, out=)``, ``linalg.eigh``); this file holds those
that differ. Tensors are detached: nothing here is differentiated.

Price: none of its own; torch is imported by who brings a tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any  # numpy.ndarray or torch.Tensor
Rows = Any  # a slice, or an integer array of the same library


def is_torch(array: Array) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def namespace(array: Array) -> Any:
    """The module ``numpy`` or ``torch``."""
    if is_torch(array):
        import torch

        return torch
    return np


def as_array(values: Any) -> Array:
    """A tensor detached, anything else as a NumPy array."""
    return values.detach() if is_torch(values) else np.asarray(values)


def wide(array: Array) -> Array:
    """The same values as float64, without a copy where they are that already."""
    return array.double() if is_torch(array) else array.astype(np.float64, copy=False)


def host(array: Array) -> NDArray[Any]:
    """The same values as a NumPy array."""
    if is_torch(array):
        values: NDArray[Any] = array.detach().cpu().numpy()
        return values
    return np.asarray(array)


def like(values: NDArray[Any], array: Array) -> Array:
    """NumPy values in the library and on the device of ``array``."""
    if is_torch(array):
        return namespace(array).as_tensor(values, device=array.device)
    return values


def zeros(shape: tuple[int, ...], array: Array, dtype: str = "float64") -> Array:
    """Zeros in the library and on the device of ``array``."""
    if is_torch(array):
        torch = namespace(array)
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=array.device)
    return np.zeros(shape, dtype=dtype)


def copied(array: Array) -> Array:
    return array.clone() if is_torch(array) else array.copy()


def grown(array: Array, rows: int) -> Array:
    """``array`` with room for at least ``rows`` rows: the same where there is room, else twice as long."""
    if rows <= array.shape[0]:
        return array
    out = zeros((max(rows, 2 * array.shape[0]), *array.shape[1:]), array)
    out[: array.shape[0]] = array
    return out


def where_true(mask: Array) -> Array:
    """Positions at which a mask (n,) is true, ascending."""
    return mask.nonzero()[:, 0] if is_torch(mask) else np.flatnonzero(mask)


def largest(values: Array, count: int) -> Array:
    """Positions of the ``count`` largest of (n,) values, in any order; all where there are no more."""
    if is_torch(values):
        return namespace(values).topk(values, min(count, len(values)), sorted=False).indices
    return np.argpartition(values, -count)[-count:] if count < len(values) else np.arange(len(values))


def solve_lower(lower: Array, right: Array) -> Array:
    """X of ``lower @ X = right`` for a lower triangular matrix: float64, (a, a) and (a, c) -> (a, c)."""
    if is_torch(lower):
        return namespace(lower).linalg.solve_triangular(lower, right, upper=False)
    from scipy.linalg import solve_triangular

    return solve_triangular(lower, right, lower=True, check_finite=False)


def roundoff(array: Array) -> float:
    """Unit roundoff of a matrix product in the array's own type, which CUDA may be told to lower for float32."""
    if "float64" in str(array.dtype):
        return 2.0**-53
    if is_torch(array) and array.is_cuda and namespace(array).get_float32_matmul_precision() != "highest":
        return 2.0**-8
    return 2.0**-24

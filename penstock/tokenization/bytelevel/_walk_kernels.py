"""numba kernels over the byte trie: an automaton's states at all nodes, log-masses of ranges of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel


@kernel
def walk(table: Any, start: Any, parents: Any, labels: Any) -> Any:
    """(state at each node, ``state * width + byte`` of transitions that the table does not know yet).

    Nodes behind an unknown transition are not visited.
    """
    count = len(parents)
    width = table.shape[1]
    states = np.empty(count, dtype=np.int32)
    missing = np.empty(count, dtype=np.int64)
    found = 0
    states[0] = start
    for node in range(1, count):
        state = states[parents[node]]
        if state < 0:
            states[node] = -1
            continue
        after = table[state, labels[node]]
        if after == -2:
            missing[found] = np.int64(state) * width + labels[node]
            found += 1
            states[node] = -1
        else:
            states[node] = after
    return states, missing[:found].copy()


@kernel
def weigh(
    logits: Any, ids: Any, allowed: Any, stops: Any, may_stop: Any, everything: Any, weight: Any, out: Any
) -> Any:
    """Log-probabilities of the tokens in ``out`` (V,), those not allowed -inf; returns that of STOP.

    The normaliser is the mass of the allowed tokens and of STOP, or of all logits with ``everything``. ``weight`` is
    added to all.
    """
    top = -np.inf
    if everything:
        for k in range(len(logits)):
            if logits[k] > top:
                top = np.float64(logits[k])
    stop_top = -np.inf
    if may_stop:
        for k in range(len(stops)):
            if logits[stops[k]] > stop_top:
                stop_top = np.float64(logits[stops[k]])
    for k in range(len(ids)):
        if allowed[k]:
            value = np.float64(logits[ids[k]])
            out[k] = value
            if value > top:
                top = value
        else:
            out[k] = -np.inf
    top = max(top, stop_top)
    if top == -np.inf:
        return -np.inf
    total = 0.0
    if everything:
        for k in range(len(logits)):
            total += np.exp(np.float64(logits[k]) - top)
    stop = 0.0
    if may_stop:
        for k in range(len(stops)):
            stop += np.exp(np.float64(logits[stops[k]]) - top)
    if not everything:
        total = stop
        for k in range(len(ids)):
            if allowed[k]:
                total += np.exp(out[k] - top)
    shift = weight - top - np.log(total)
    for k in range(len(ids)):
        out[k] += shift
    return np.log(stop) + top + shift if stop > 0.0 else -np.inf


@kernel
def log_mass(values: Any, begin: Any, end: Any) -> Any:
    """Log-sum-exp of ``values[begin:end]``, which may hold -inf."""
    top = -np.inf
    for k in range(begin, end):
        if values[k] > top:
            top = values[k]
    if top == -np.inf:
        return top
    total = 0.0
    for k in range(begin, end):
        total += np.exp(values[k] - top)
    return top + np.log(total)


@kernel
def add_masses(values: Any, offset: Any, low: Any, high: Any, first: Any, last: Any, labels: Any, out: Any) -> Any:
    """Add the mass below each of the sibling nodes ``first : last`` to ``out`` at the node's byte, all in logs."""
    for node in range(first, last):
        mass = log_mass(values, low[node] - offset, high[node] - offset)
        if mass == -np.inf:
            continue
        label = labels[node]
        before = out[label]
        top = max(before, mass)
        out[label] = top + np.log(np.exp(before - top) + np.exp(mass - top))

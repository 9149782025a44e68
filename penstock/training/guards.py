"""Guards of a training step: numbers that are not finite, and spikes of the gradient.

A step's gradient is refused when the loss or the norm is NaN or infinite, when the norm is above ``max_norm``, or
when its logarithm lies more than ``spike_z`` standard deviations above the mean of the last ``window`` accepted ones::

    z = (log norm - mean) / max(standard deviation, LEAST_SPREAD)

The norm is the one before clipping. Refused norms do not enter the window, so a burst of them cannot move it. A
refused step changes no weight and no moment of the optimiser; the data and the schedule go on. Every rank judges the
same reduced numbers, so all refuse together, and the state is in the checkpoint, so a resumed run refuses the same
steps.

Skipping a spike is common practice (PaLM, Chowdhery et al. 2022, section 5.1, restarts before it and skips the
batches). Clipping alone keeps the direction of a bad batch.

Price: ``window`` numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from penstock.errors import TrainingError

LEAST_SPREAD = 0.05  # of the log-norm: norms that hardly vary do not make a change of a tenth a spike


class GradientGuard:
    """Decides step by step whether a gradient may be applied."""

    def __init__(
        self,
        *,
        max_skipped: int,
        max_norm: float | None = None,
        spike_z: float | None = None,
        window: int = 100,
    ) -> None:
        """
        Args:
            max_skipped: refused steps in a row that are let pass; one more raises.
            max_norm, spike_z: see above; None does not look.
            window: accepted norms that a spike is measured against.
        """
        self.max_skipped, self.max_norm, self.spike_z = max_skipped, max_norm, spike_z
        self.skipped = 0  # refused steps since the run began
        self.in_a_row = 0
        self._logs: deque[float] = deque(maxlen=window)

    def judge(self, loss: float, norm: float) -> str | None:
        """Why the step with this mean loss and gradient norm is refused, or None when it is accepted."""
        reason = self._reason(loss, norm)
        if reason is not None:
            self.skipped += 1
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            if self.spike_z is not None and norm > 0:
                self._logs.append(math.log(norm))
        return reason

    def raise_if_stuck(self, step: int, reason: str, advice: str) -> None:
        """Raise TrainingError when more steps in a row were refused than ``max_skipped``."""
        if self.in_a_row > self.max_skipped:
            before = f", the last of {self.in_a_row} steps in a row that were skipped" if self.in_a_row > 1 else ""
            raise TrainingError(f"step {step}: {reason}{before}; {advice}")

    def _reason(self, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss} and the gradient norm {norm}, allowed finite numbers"
        if self.max_norm is not None and norm > self.max_norm:
            return f"the gradient norm is {norm:.4g}, allowed at most max_gradient_norm = {self.max_norm:g}"
        if self.spike_z is not None and norm > 0 and len(self._logs) == self._logs.maxlen:
            mean = math.fsum(self._logs) / len(self._logs)
            spread = math.sqrt(math.fsum((x - mean) ** 2 for x in self._logs) / len(self._logs))
            z = (math.log(norm) - mean) / max(spread, LEAST_SPREAD)
            if z > self.spike_z:
                return (
                    f"the gradient norm {norm:.4g} is {z:.1f} standard deviations above the running mean "
                    f"{math.exp(mean):.4g} (in logarithms), allowed spike_z = {self.spike_z:g}"
                )
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "log_norms": list(self._logs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
        self._logs = deque((float(x) for x in state["log_norms"]), maxlen=self._logs.maxlen)

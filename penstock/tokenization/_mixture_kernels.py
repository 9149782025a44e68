"""Loops of ``mixture_inference``: along the merges, which rivals a mixture would have had the trainer take."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel


@kernel
def _known(keys: Any, wanted: Any) -> Any:
    """Whether a sorted array holds a key."""
    at = np.searchsorted(keys, wanted)
    return at < keys.size and keys[at] == wanted


@kernel
def violated(
    counts: Any,
    starts: Any,
    event_pair: Any,
    event_column: Any,
    event_change: Any,
    merged: Any,
    scale: Any,
    slack_step: Any,
    slack_pair: Any,
    known: Any,
    tolerance: Any,
    per_step: Any,
    enough: Any,
) -> Any:
    """Constraints that a mixture violates, up to ``per_step`` a merge, the worst first, until there are ``enough``.

    Args:
        counts: (p, c) of each pair in each category before the first merge; changed.
        starts: (steps + 1,) bounds of each merge's changes in the three arrays that follow: pair, category, number.
        merged: (steps,) the pair that was merged.
        scale: (c,) what an occurrence adds to the mixed share.
        slack_step, slack_pair: (steps,), (p,) of the last solution.
        known: sorted step * p + pair of the constraints there are.

    Returns:
        (k,) steps, (k,) pairs, and (k, c) their counts less those of the merged pair.
    """
    pairs, columns = counts.shape
    steps = np.empty(enough + per_step, np.int64)
    rivals = np.empty(enough + per_step, np.int64)
    less = np.empty((enough + per_step, columns), np.int64)
    found = 0
    mixed = np.zeros(pairs)
    for p in range(pairs):
        for c in range(columns):
            mixed[p] += counts[p, c] * scale[c]
    worst = np.empty(per_step)
    who = np.empty(per_step, np.int64)
    for step in range(merged.size):
        mine = merged[step]
        level = mixed[mine] + slack_step[step] + tolerance
        held = 0
        for p in range(pairs):
            over = mixed[p] - slack_pair[p] - level
            if over <= 0 or p == mine or (held == per_step and over <= worst[held - 1]):
                continue
            if _known(known, step * pairs + p):
                continue
            at = held if held < per_step else per_step - 1
            while at > 0 and worst[at - 1] < over:
                worst[at], who[at] = worst[at - 1], who[at - 1]
                at -= 1
            worst[at], who[at] = over, p
            held = min(held + 1, per_step)
        for i in range(held):
            steps[found], rivals[found] = step, who[i]
            for c in range(columns):
                less[found, c] = counts[who[i], c] - counts[mine, c]
            found += 1
        if found >= enough:
            break
        for event in range(starts[step], starts[step + 1]):
            p, c = event_pair[event], event_column[event]
            counts[p, c] += event_change[event]
            # anew from whole numbers: sums of differences would drift
            mixed[p] = 0.0
            for other in range(columns):
                mixed[p] += counts[p, other] * scale[other]
    return steps[:found], rivals[:found], less[:found]

"""Whether a round's model takes the older one's place."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock.refreshing.config import Accept
from penstock.refreshing.ledger import HeldOut


def verdict(losses: Sequence[HeldOut], accept: Accept) -> tuple[bool, str]:
    """Accepted or not, and why, by ``difference + errors * standard error <= tolerance`` on every split that counts."""
    counted = [one for one in losses if accept.held_out in ("both", one.split)]
    failed = [one for one in counted if not _bound(one, accept) <= accept.tolerance]  # nan is no better
    told = "; ".join(_told(one, accept) for one in (failed or counted))
    return not failed, f"{told}; allowed up to {accept.tolerance:+.4f}"


def _bound(one: HeldOut, accept: Accept) -> float:
    if not accept.errors:
        return one.difference
    return one.difference + accept.errors * one.error if one.error is not None else math.nan


def _told(one: HeldOut, accept: Accept) -> str:
    error = "an unknown error" if one.error is None else f"{one.error:.4f}"
    beyond = f", {accept.errors:g} standard errors added {_bound(one, accept):+.4f}" if accept.errors else ""
    losses = f"loss {one.before:.4f} to {one.after:.4f}"
    return f"{one.split} sequences: {losses}, difference {one.difference:+.4f} ± {error}{beyond}"

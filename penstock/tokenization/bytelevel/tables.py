"""What ``penstock bytes`` prints: the next byte as a table, and continuations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from penstock.terminal import plain, print_table, say, table
from penstock.tokenization.bytelevel.distributions import STOP
from penstock.tokenization.bytelevel.healing import heal_tokens, next_byte_of_tokens, prompt_tokens
from penstock.tokenization.bytelevel.sampling import Generated, Sampling, generate

if TYPE_CHECKING:
    from penstock.tokenization.bytelevel.model import ByteModel

_BAR = 24  # characters of a bar of probability 1


def show_bytes(
    model: ByteModel,
    prompt: bytes,
    settings: Sampling,
    *,
    top: int = 12,
    samples: int = 0,
    logprob: bool = False,
    compare: bool = False,
    special: bool = False,
    console: Console | None = None,
) -> None:
    """Print the distribution of the byte after the prompt, and what was asked for beside it.

    Args:
        top: likeliest symbols that are shown.
        samples: continuations that are drawn.
        logprob: print the prompt's own probability.
        compare: the same by tokens, and what tokens continue with.
        special: whether the prompt's text that spells a special token is that token.
    """
    console = console or Console()
    state = model.start([prompt], special=special)
    exact = state.log_probs()[0]
    by_tokens = next_byte_of_tokens(model, [prompt])[0] if compare else None
    _distribution(console, exact, by_tokens, top)
    if logprob:
        total = float(state.prefix_logprob[0])
        rate = f", {-total / math.log(2) / len(prompt):.4f} bits a byte" if prompt else ""
        say(console, f"log P of the prompt's {len(prompt):,} bytes: {total:.4f} nats{rate}")
    if samples:
        _continuations(console, "exact bytes", generate(model, [prompt], settings, samples=samples, special=special)[0])
    if compare:
        number = samples or 1
        _continuations(console, "tokens", prompt_tokens(model, [prompt], settings, samples=number)[0])
        if prompt:
            _continuations(console, "healed tokens", heal_tokens(model, [prompt], settings, samples=number)[0])


def symbol_name(symbol: int) -> str:
    """A byte as it is written in a bytes literal, or STOP."""
    return "STOP" if symbol == STOP else repr(bytes([symbol]))[1:]


def _distribution(
    console: Console, exact: NDArray[np.float64], by_tokens: NDArray[np.float64] | None, top: int
) -> None:
    columns = ("P", *(() if by_tokens is None else ("by tokens",)))
    shown = table(("byte", "hex"), columns, ("",))
    order = np.argsort(-exact, kind="stable")[:top].tolist()
    for symbol in order:
        p = math.exp(exact[symbol])
        other = () if by_tokens is None else (f"{math.exp(by_tokens[symbol]):.6f}",)
        code = "" if symbol == STOP else f"{symbol:02x}"
        shown.add_row(plain(symbol_name(symbol)), code, f"{p:.6f}", *other, "█" * round(p * _BAR))
    print_table(console, "Next byte", shown, whole=True)
    rest = 1.0 - float(np.exp(exact[order]).sum())
    if rest > 5e-7:
        say(console, f"all others together: {rest:.6f}")


def _continuations(console: Console, title: str, found: list[Generated]) -> None:
    shown: Any = table(("text", "end"), ("nats",))
    for one in found:
        shown.add_row(plain(one.text), plain(one.end), f"{one.logprob:.3f}")
    print_table(console, f"Continued by {title}", shown)

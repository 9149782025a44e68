"""What a BPE tokenizer was trained on: shares of categories of text, from the order of its merges (arXiv 2407.16607).

Every merge was the most frequent pair of the training text when it was made. With c_i,p(t) the occurrences of pair p in
text of category i after the first t - 1 merges, over the size of that text, and m(t) the pair merged at step t, shares
a_i are sought that explain the list with the least slack:

    minimise    sum_t v_t + sum_p v_p
    subject to  sum_i a_i c_i,m(t)(t) + v_t + v_p  >=  sum_i a_i c_i,p(t)      for all t and all p that are not m(t)
                sum_i a_i = 1,  a, v >= 0

v_t takes up noise at one step, v_p a pair that is mispredicted throughout. Most constraints never matter: from equal
shares the merges are replayed, at each step the ``PER_STEP`` rivals that are most above the merged pair become rows, a
round ends with ``PER_ROUND`` new ones (once there are many, a quarter of them, which solves fewer programs for the same
end), the program is solved again (HiGHS), and so on until no rival is above by more than ``TOLERANCE``. Counts along
the list do not depend on the shares, so they are recorded once, as changes.

An a_i is a share of the unit that sizes are counted in: adjacent pairs of symbols before the first merge, or bytes. The
estimate states its unit and gives the other one too, converted by the categories' own bytes a pair.

What decides how far to trust it. Text is cut as the tokenizer itself cuts it, so its pre-tokenizer must be the one it
was trained with (not so for SuperBPE). A kind of training text that no category stands for is spread over those
that resemble it: name the rest as a category of its own, and look at the slack a merge. Merges that occur in no
category tell nothing and are passed over; so are those that make a token once more, which files converted from
SentencePiece are full of.

Price: 0.5 s a MB of text to cut it into words, then 1 to 3 s for 300 merges of a mixture that explains them. One that
does not (a published tokenizer, texts of other kinds) violates far more constraints, minutes for 1,000 merges; more
merges did not make the error smaller. Memory: 24 bytes a change of a count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.loading import Loaded
from penstock.tokenization.merges import Pairs

Unit = Literal["pairs", "bytes"]

OTHER = "other"
PER_STEP = 10
PER_ROUND = 100
TOLERANCE = 1e-9
_SCALE = 1e6  # rows in millionths: HiGHS takes 1e-7 for 0
_MAX_ROUNDS = 1000
_METASPACE = re.compile("▁[^▁]*|[^▁]+")  # SentencePiece never merges across the beginning of a word
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class MixtureEstimate:
    """Shares of categories and how well they explain the merges.

    Attributes:
        unit: what ``shares`` are shares of: pairs of symbols before the first merge, or bytes.
        shares: by category; they sum to 1.
        in_pairs, in_bytes: the same mixture in either unit.
        merges: merges of the list that were looked at, from the first; ``unseen`` of them occur in no category,
            ``redundant`` make a token that an earlier one made, and the others are those explained.
        objective: sum of all slack; a share of the unit.
        rows, rounds: constraints made, and times that they were solved.
        hardest: the merges with most slack, (left, right, slack).
    """

    unit: Unit
    shares: dict[str, float]
    in_pairs: dict[str, float]
    in_bytes: dict[str, float]
    merges: int
    unseen: int
    redundant: int
    objective: float
    rows: int
    rounds: int
    hardest: tuple[tuple[str, str, float], ...]

    @property
    def explained(self) -> int:
        return self.merges - self.unseen - self.redundant

    @property
    def objective_per_merge(self) -> float:
        return self.objective / self.explained

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"explained": self.explained, "objective_per_merge": self.objective_per_merge}


def infer_mixture(
    loaded: Loaded,
    categories: Mapping[str, Iterable[str]],
    *,
    merges: int = 300,
    unit: Unit = "pairs",
    progress: Callable[[str, int, int], None] | None = None,
) -> MixtureEstimate:
    """The mixture of ``categories`` that a tokenizer was trained on.

    Args:
        loaded: a BPE tokenizer.
        categories: name to sample texts.
        merges: how many to explain, from the first.
        unit: what sizes of categories are counted in, and so what the shares are shares of.
        progress: told ("merges", done, of) now and then.

    Raises:
        ConfigError: no BPE, fewer than two categories, no merges, an unknown unit.
        DatasetError: a category without text, or none of the merges in any text.
    """
    loaded.require_bpe("infer-mixture")
    if len(categories) < 2:
        raise ConfigError(f"categories: got {', '.join(categories) or 'none'}, allowed two or more; name another")
    if merges < 1:
        raise ConfigError(f"merges: got {merges}, allowed 1 or more; 300 is usual")
    if unit not in ("pairs", "bytes"):
        raise ConfigError(f"unit: got {unit!r}, allowed pairs, bytes")
    names = tuple(categories)
    words, sizes = _words(loaded, categories)
    path = _follow(loaded, words, merges, progress)
    pairs = path.counts.sum(axis=0).astype(np.float64)
    for name, held in zip(names, pairs, strict=True):
        if not held:
            raise DatasetError(f"category {name}: got no text with two symbols in a row; name files that have some")
    if not path.pairs:
        raise DatasetError(
            f"infer-mixture: none of the {path.looked_at} merges that were looked at occurs in the categories; give "
            "text of the kind that the tokenizer was made for"
        )
    denominators = pairs if unit == "pairs" else sizes
    solved = _solve(path, denominators)
    amounts = {"pairs": solved.shares * pairs / denominators, "bytes": solved.shares * sizes / denominators}
    told = {of: dict(zip(names, (amount / amount.sum()).tolist(), strict=True)) for of, amount in amounts.items()}
    tokens = {number: token for token, number in loaded.state["model"]["vocab"].items()}
    worst = [step for step in np.argsort(-solved.slack, kind="stable")[:5] if solved.slack[step] > 0]
    hardest = [(tokens[path.pairs[i][0]], tokens[path.pairs[i][1]], float(solved.slack[i])) for i in worst]
    return MixtureEstimate(
        unit=unit,
        shares=told[unit],
        in_pairs=told["pairs"],
        in_bytes=told["bytes"],
        merges=path.looked_at,
        unseen=path.unseen,
        redundant=path.redundant,
        objective=solved.objective,
        rows=solved.rows,
        rounds=solved.rounds,
        hardest=tuple(hardest),
    )


def categories_of(texts: Mapping[str, list[str]], chosen: Sequence[str]) -> dict[str, list[str]]:
    """The chosen categories of texts, and ``other`` with all the rest; every one of them when none is chosen.

    Raises ConfigError for one that there is not.
    """
    if not chosen:
        return dict(texts)
    strange = [name for name in chosen if name not in texts]
    if strange:
        raise ConfigError(f"category {strange[0]}: no such texts, allowed {', '.join(texts)}; name one of them")
    out = {name: texts[name] for name in dict.fromkeys(chosen)}
    rest = [text for name, some in texts.items() if name not in out for text in some]
    return {**out, OTHER: [*out.get(OTHER, ()), *rest]} if rest else out


# ---- text to words


@dataclass(frozen=True)
class _Words:
    symbols: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.int64]  # (words, categories)


def _words(loaded: Loaded, categories: Mapping[str, Iterable[str]]) -> tuple[_Words, NDArray[np.float64]]:
    """Distinct words of all categories with their numbers in each, and the bytes of each category."""
    pieces = _pieces(loaded)
    vocabulary: dict[str, int] = loaded.state["model"]["vocab"]
    number: dict[str, int] = {}
    rows: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.int64]] = []
    sizes = np.zeros(len(categories))
    for column, (name, texts) in enumerate(categories.items()):
        found: Counter[str] = Counter()
        for text in texts:
            sizes[column] += len(text.encode())
            for start in range(0, len(text), _CHUNK):
                found.update(pieces(text[start : start + _CHUNK]))
        if not found:
            raise DatasetError(f"category {name}: got no text, allowed some of every category; name files that have it")
        rows.append(np.array([number.setdefault(word, len(number)) for word in found], np.int64))
        counts.append(np.array(list(found.values()), np.int64))
    by_word = np.zeros((len(number), len(categories)), np.int64)
    for column, (row, count) in enumerate(zip(rows, counts, strict=True)):
        by_word[row, column] = count
    symbols: list[int] = []
    offsets = [0]
    of_word: list[int] = []
    for word, at in number.items():
        # a character without a token of its own is out of reach of every merge
        for stretch in _stretches(word, vocabulary):
            symbols.extend(stretch)
            offsets.append(len(symbols))
            of_word.append(at)
    return _Words(np.array(symbols, np.int32), np.array(offsets, np.int64), by_word[of_word]), sizes


def _stretches(word: str, vocabulary: Mapping[str, int]) -> Iterator[list[int]]:
    held: list[int] = []
    for letter in word:
        symbol = vocabulary.get(letter)
        if symbol is not None:
            held.append(symbol)
        elif held:
            yield held
            held = []
    if held:
        yield held


def _pieces(loaded: Loaded) -> Callable[[str], list[str]]:
    """Cuts a text into pieces that no merge leaves, spelt as the vocabulary spells them."""
    normalizer, pre_tokenizer = loaded.tokenizer.normalizer, loaded.tokenizer.pre_tokenizer

    def cut(text: str) -> list[str]:
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        if pre_tokenizer is None:
            return _METASPACE.findall(text)
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]

    return cut


# ---- counts along the merges


@dataclass(frozen=True)
class _Path:
    """Counts of pairs in every category along the merges: the first ones, and each merge's changes."""

    counts: NDArray[np.int64]  # (p, categories) before the first merge
    starts: NDArray[np.int64]  # (steps + 1,) of the changes
    pair: NDArray[np.int64]
    column: NDArray[np.int64]
    change: NDArray[np.int64]
    merged: NDArray[np.int64]  # (steps,) pair number of each merge that occurs
    pairs: tuple[tuple[int, int], ...]  # (steps,) ids
    looked_at: int
    unseen: int
    redundant: int


def _follow(loaded: Loaded, words: _Words, limit: int, progress: Callable[[str, int, int], None] | None) -> _Path:
    vocabulary: dict[str, int] = loaded.state["model"]["vocab"]
    tokens: list[bytes | None] = [None] * (1 + max(vocabulary.values()))
    for token, symbol in vocabulary.items():
        tokens[symbol] = token.encode("utf-8", "surrogatepass") or None
    table = Pairs(words.symbols, words.offsets, tokens, weights=words.weights)
    start = table.counts.copy()
    before = start.copy()
    number = {(int(left), int(right)): i for i, (left, right) in enumerate(table.pairs)}
    events: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    steps: list[tuple[int, int]] = []
    made: set[str] = set()
    looked = unseen = redundant = 0
    for left, right in loaded.merges():
        if len(made) == limit:
            break
        looked += 1
        a, b = vocabulary[left], vocabulary[right]
        result = left + right
        if not table.apply(a, b):
            # of several merges that make a token one alone is ever applied, the last step of how its symbols merge
            redundant += result in made
            unseen += result not in made
            continue
        keys = table.pairs
        if len(keys) > len(number):
            number.update(((int(x), int(y)), i) for i, (x, y) in enumerate(keys[len(number) :], len(number)))
            before = np.concatenate([before, np.zeros((len(keys) - len(before), before.shape[1]), np.int64)])
        touched = np.flatnonzero(np.isin(keys, (a, b, vocabulary[result])).any(axis=1))
        moved = table.counts[touched] - before[touched]
        row, category = np.nonzero(moved)
        events.append((touched[row], category.astype(np.int64), moved[row, category]))
        before[touched] += moved
        steps.append((a, b))
        made.add(result)
        if progress is not None and (len(made) == limit or not len(made) % 50):
            progress("merges", len(made), limit)
    pair, column, change = (np.concatenate([np.zeros(0, np.int64), *(event[i] for event in events)]) for i in range(3))
    full = np.zeros_like(before)
    full[: len(start)] = start
    return _Path(
        full,
        np.cumsum([0, *(len(event[0]) for event in events)]),
        pair,
        column,
        change,
        np.array([number[step] for step in steps], np.int64),
        tuple(steps),
        looked,
        unseen,
        redundant,
    )


# ---- the program


@dataclass(frozen=True)
class _Solution:
    shares: NDArray[np.float64]
    slack: NDArray[np.float64]  # (steps,)
    objective: float
    rows: int
    rounds: int


def _solve(path: _Path, denominators: NDArray[np.float64]) -> _Solution:
    from penstock.tokenization import _mixture_kernels as kernels

    pairs, columns = path.counts.shape
    shares = np.full(columns, 1 / columns)
    slack_step, slack_pair = np.zeros(len(path.merged)), np.zeros(pairs)
    steps, rivals = np.zeros(0, np.int64), np.zeros(0, np.int64)
    less = np.zeros((0, columns), np.int64)
    objective = 0.0
    for rounds in range(_MAX_ROUNDS):
        found = kernels.violated(
            path.counts.copy(),
            path.starts,
            path.pair,
            path.column,
            path.change,
            path.merged,
            shares / denominators,
            slack_step,
            slack_pair,
            np.sort(steps * pairs + rivals),
            TOLERANCE,
            PER_STEP,
            max(PER_ROUND, len(steps) // 4),
        )
        if not len(found[0]):
            return _Solution(shares, slack_step, objective, len(steps), rounds)
        steps, rivals = np.concatenate([steps, found[0]]), np.concatenate([rivals, found[1]])
        less = np.concatenate([less, found[2]])
        shares, slack_step, slack_pair, objective = _program(
            less / denominators, steps, rivals, len(path.merged), pairs
        )
    raise DatasetError(
        f"infer-mixture: the program was not closed after {_MAX_ROUNDS} rounds; explain fewer merges, or give more text"
    )


def _program(
    less: NDArray[np.float64], steps: NDArray[np.int64], rivals: NDArray[np.int64], all_steps: int, all_pairs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Shares and slacks for the constraints there are.

    Args:
        less: (rows, categories) frequency of the rival less that of the merged pair.
        steps, rivals: (rows,).
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array, hstack

    rows, columns = less.shape
    of_step, at_step = np.unique(steps, return_inverse=True)
    of_pair, at_pair = np.unique(rivals, return_inverse=True)
    count = len(of_step) + len(of_pair)
    row = np.arange(rows)
    slack = coo_array(
        (-np.ones(2 * rows), (np.r_[row, row], np.r_[at_step, len(of_step) + at_pair])), shape=(rows, count)
    )
    solved: Any = linprog(
        np.r_[np.zeros(columns), np.ones(count)],
        A_ub=hstack([coo_array(_SCALE * less), slack]).tocsr(),
        b_ub=np.zeros(rows),
        A_eq=coo_array(np.r_[np.ones(columns), np.zeros(count)][None, :]).tocsr(),
        b_eq=[1.0],
        method="highs",
    )
    if solved.status != 0:
        raise DatasetError(f"infer-mixture: HiGHS found no solution ({solved.message}); give more text")
    values = np.maximum(solved.x, 0)
    slack_step, slack_pair = np.zeros(all_steps), np.zeros(all_pairs)
    slack_step[of_step] = values[columns : columns + len(of_step)] / _SCALE
    slack_pair[of_pair] = values[columns + len(of_step) :] / _SCALE
    shares = values[:columns]
    return shares / shares.sum(), slack_step, slack_pair, float(solved.fun) / _SCALE

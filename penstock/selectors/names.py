"""Names of groups from their texts: class-based TF-IDF (Grootendorst 2022, arXiv 2203.05794, equation 1).

A term t weighs sqrt(tf(t, c)) * log(1 + A / f(t)) in group c: tf is its share of the group's counts, f its count over
all groups, A the mean count of a group; the root is BERTopic's ``reduce_frequent_words``, without which groups of prose
are called "said" and "like". Unlike the paper a term counts once a document, so that one page that repeats a word a
thousand times names nothing. Terms are runs of at least three letters and digits that start with a letter,
accents taken off, English stop words left out; terms that only differ by an ending count as one.

A name is the first terms joined by hyphens: lower-case ASCII letters, digits and hyphens, unique, at most 64
characters. A group whose texts hold no such term (another script, numbers alone) is ``group-17``.

Price: 0.5 MB of text a second; the caller passes a sample of the beginnings of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

TERMS = 8  # kept for the report
_IN_NAME = 3
_LONGEST_TERM = 20
_TOKEN = r"(?u)\b[a-z][a-z0-9]{2," + str(_LONGEST_TERM - 1) + r"}\b"


@dataclass(frozen=True)
class GroupName:
    """What a group is called, and the terms that set it apart, most telling first."""

    name: str
    terms: tuple[str, ...]


def name_groups(texts: Sequence[Sequence[str]], reserved: Iterable[str] = ()) -> list[GroupName]:
    """Names of groups, one a sequence of texts, in order.

    Args:
        texts: a sample of each group's texts.
        reserved: names that no group may have.
    """
    taken = set(reserved)
    found = []
    for index, terms in enumerate(top_terms(texts)):
        name = _unique(terms, index, taken)
        taken.add(name)
        found.append(GroupName(name, tuple(terms[:TERMS])))
    return found


def _unique(terms: Sequence[str], index: int, taken: set[str]) -> str:
    """The shortest name of at least three terms that is free, else one with a number."""
    if not terms:
        terms, enough = ["group", str(index)], 2
    else:
        enough = min(_IN_NAME, len(terms))
    for count in range(enough, len(terms) + 1):
        name = "-".join(terms[:count])
        if len(name) > 64:
            break
        if name not in taken:
            return name
    base, number = "-".join(terms[:enough]), 2
    while f"{base}-{number}" in taken:
        number += 1
    return f"{base}-{number}"


def top_terms(texts: Sequence[Sequence[str]], count: int = 2 * TERMS) -> list[list[str]]:
    """The ``count`` terms of largest weight of each group, ties in order of the alphabet."""
    counts, terms = term_counts(texts)
    out: list[list[str]] = []
    for row in class_tf_idf(counts):
        order = np.lexsort((terms, -row))
        chosen: list[str] = []
        for at in order:
            term = str(terms[at])
            if row[at] <= 0 or len(chosen) == count:
                break
            if not any(term.startswith(other) or other.startswith(term) for other in chosen):
                chosen.append(term)
        out.append(chosen)
    return out


def term_counts(texts: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """Documents of each group that hold each term: (groups, terms) int64, and the terms in order."""
    from sklearn.feature_extraction.text import CountVectorizer

    reader = CountVectorizer(
        strip_accents="unicode", lowercase=True, token_pattern=_TOKEN, stop_words="english", binary=True
    )
    flat = [text for group in texts for text in group]
    analyse = reader.build_analyzer()
    if not any(analyse(text) for text in flat):
        return np.zeros((len(texts), 0), dtype=np.int64), np.zeros(0, dtype=np.str_)
    held = reader.fit_transform(flat).tocsr()
    edges = np.cumsum([0, *map(len, texts)])
    rows = [np.asarray(held[a:b].sum(axis=0)).ravel() for a, b in pairwise(edges)]
    return np.stack(rows).astype(np.int64), reader.get_feature_names_out().astype(np.str_)


def class_tf_idf(counts: Any) -> Any:
    """Weights of c-TF-IDF with the root of tf: float64, shape (groups, terms), of non-negative counts of that shape."""
    counts = np.asarray(counts, dtype=np.float64)
    of_group = counts.sum(axis=1)
    frequency = counts.sum(axis=0)
    share = counts / np.maximum(of_group, 1.0)[:, None]
    mean = of_group.mean() if len(of_group) else 0.0
    return np.sqrt(share) * np.log1p(mean / np.maximum(frequency, 1.0))

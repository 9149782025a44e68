"""How much a text looks like running prose: a composite of statistics that need no model.

    statistic          of                                                     best at      0 from
    words              words                                                  200 and more 0
    stop_words         words that are stop words, of all words                .36 to .50   .02 and .95
    alphabetic         letters, of characters that are not whitespace         .94 and more .45
    word_length        mean characters of a word                              4.4 to 5.8   2 and 14
    line_ends          lines that end with a mark such as ".", of all lines   1            (.6 at 0)
    repeated_lines     characters in lines seen before, of all                0            .40
    repeated_trigrams  runs of three words seen before, of all                0            .70
    compressed         bytes after zstd, of bytes before                      .42 to .54   .08 and .95

Each statistic is mapped to [0, 1] by a curve of straight lines (``CURVES``, the points in full), and the score is the
geometric mean of the values, each at least 0.01: a text must do well everywhere, and one statistic alone cannot make it
good. Words are ``str.split()`` words and stop words are compared in lower case; without stop words in the configuration
that statistic is left out, as it is for text in another language. ``compressed`` counts from 400 bytes on, as the frame
of the compressor weighs too much in less. The idea of such composites is that of the rules of Gopher (arXiv 2112.11446)
and FineWeb (arXiv 2406.17557); a filter has to name a limit, a score only an order.

Price: no state; one pass of a compiled loop and one of zstd level 1 over the first ``prefix_bytes`` of a text, about
80 MB/s a core together. Memory: 32 bytes a byte of the prefix, so 2 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.selectors.scorers.base import Direction, score_array

STOP_WORDS = tuple(
    """
    a about after all also an and any are as at be because been but by can could did do does for from had has
    have he her him his how i if in into is it its just like me more my no not now of on one only or other our
    out over said she so some than that the their them then there these they this to up us was we were what when
    which who will with would you your
    """.split()  # noqa: SIM905
)

# (statistic, value of the curve) points; what lies outside has the value of the nearest end
CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    "words": ((0, 0.0), (5, 0.2), (30, 0.7), (200, 1.0)),
    "stop_words": ((0.02, 0.0), (0.20, 0.8), (0.36, 1.0), (0.50, 1.0), (0.65, 0.7), (0.95, 0.0)),
    "alphabetic": ((0.45, 0.0), (0.85, 0.6), (0.94, 1.0)),
    "word_length": ((2.0, 0.0), (3.5, 0.8), (4.4, 1.0), (5.8, 1.0), (8.0, 0.6), (14.0, 0.0)),
    "line_ends": ((0.0, 0.6), (1.0, 1.0)),
    "repeated_lines": ((0.0, 1.0), (0.05, 0.8), (0.40, 0.0)),
    "repeated_trigrams": ((0.0, 1.0), (0.10, 0.9), (0.25, 0.6), (0.70, 0.0)),
    "compressed": ((0.08, 0.0), (0.30, 0.8), (0.42, 1.0), (0.54, 1.0), (0.66, 0.5), (0.95, 0.0)),
}
FLOOR = 0.01
SMALLEST_COMPRESSED = 400  # bytes


@dataclass(frozen=True, kw_only=True)
class HeuristicScore:
    """Scorer: ``score.heuristic`` in [0, 1], higher is better; null for a text without a word.

    Args:
        stop_words: frequent words of the language, in lower case; none leaves the statistic out.
        prefix_bytes: so many bytes of a text's beginning count.
    """

    stop_words: tuple[str, ...] = STOP_WORDS
    prefix_bytes: int = 65536

    name: ClassVar[str] = "heuristic"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.heuristic",)
    directions: ClassVar[Mapping[str, Direction]] = {"score.heuristic": "higher"}

    def __post_init__(self) -> None:
        if isinstance(self.stop_words, str) or any(w.split() != [w] or w != w.lower() for w in self.stop_words):
            raise ConfigError(
                f"heuristic stop_words: got {self.stop_words!r}, allowed words in lower case without whitespace; give "
                "a list, or [] for none"
            )
        if self.prefix_bytes < 1:
            raise ConfigError(f"heuristic prefix_bytes: got {self.prefix_bytes}, allowed >= 1; 65536 is a long page")

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.statistics(pa.array(["a"]))

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"score.heuristic": score_array(composite(self.statistics(batch["text"])))}

    def statistics(self, text: pa.Array) -> dict[str, NDArray[np.float64]]:
        """Each statistic of ``CURVES`` by name, shape (n,); NaN where a text has none."""
        from penstock.selectors.scorers import heuristic_kernels
        from penstock.text import row_views

        offsets, data = row_views(text)
        found = heuristic_kernels.statistics(offsets, data, self.prefix_bytes, _stop_hashes(self.stop_words))
        out = dict(zip(heuristic_kernels.STATISTICS, found.T, strict=True))
        if not self.stop_words:
            out["stop_words"] = np.full(len(text), np.nan)
        out["compressed"] = _compressed(offsets, data, self.prefix_bytes)
        return out


def composite(statistics: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Geometric mean of the curves' values over the statistics that a text has; NaN for a text without a word."""
    total = np.zeros(len(statistics["words"]))
    count = np.zeros(len(total))
    for name, points in CURVES.items():
        x, y = np.array(points).T
        value = np.interp(statistics[name], x, y)
        present = ~np.isnan(value)
        total[present] += np.log(np.maximum(value[present], FLOOR))
        count += present
    return np.where(statistics["words"] > 0, np.exp(total / np.maximum(count, 1)), np.nan)


@cache
def _stop_hashes(words: tuple[str, ...]) -> NDArray[np.uint64]:
    from penstock.selectors.scorers import heuristic_kernels
    from penstock.text import row_views

    return np.unique(heuristic_kernels.word_hashes(*row_views(pa.array(words, pa.string()))))


def _compressed(offsets: NDArray[np.int64], data: NDArray[np.uint8], limit: int) -> NDArray[np.float64]:
    """Bytes after zstd level 1 over bytes before, NaN for texts of less than ``SMALLEST_COMPRESSED``."""
    import zstandard

    out = np.full(len(offsets) - 1, np.nan)
    sizes = np.minimum(np.diff(offsets), limit)
    # without a checksum and a content size the frame is as small as it gets
    compress: Any = zstandard.ZstdCompressor(level=1, write_checksum=False, write_content_size=False).compress
    whole: Any = memoryview(data)  # type: ignore[arg-type]  # an array is a buffer
    for row in np.flatnonzero(sizes >= SMALLEST_COMPRESSED).tolist():
        start, size = int(offsets[row]), int(sizes[row])
        out[row] = len(compress(whole[start : start + size])) / size
    return out

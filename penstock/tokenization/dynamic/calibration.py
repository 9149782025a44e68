"""How many merges give a wanted reduction: a table measured on batches like those to come.

    table = calibrate(tokenizer, batches)          # batches: lists of texts, as large as those to come
    table.merges_for(15, of="base")                # merges that save 15 % of the base tokens
    table.merges_for(50, of="possible")            # that save half of what merging up to whole units would

"Reduction" means nothing without what it is a share of. With L0 base tokens, L after m merges and L_min, the tokens
if every unit were one token (all without padding, per row):

    of="base"      100 (L0 - L) / L0
    of="possible"  100 (L0 - L) / (L0 - L_min)     as arXiv:2411.18553 states it

A batch that runs out of pairs before m merges stays at its last length.

Price: one full merge of every batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.batch import DynamicTokenizer

Share = Literal["base", "possible"]


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Mean length by number of merges.

    Attributes:
        lengths: (M + 1,) mean tokens a row after 0, 1, …, M merges.
        least: mean tokens a row if every unit were one token.
        rows: rows of a batch that it was measured with; None where batches differed.
        boundary, words, minimum: settings of the tokenizer.
    """

    lengths: tuple[float, ...]
    least: float
    rows: int | None
    boundary: str
    words: str
    minimum: int

    def reduction(self, merges: int, of: Share = "base") -> float:
        """Percent saved by so many merges, or by all that were measured if they are fewer."""
        return float(self._saved(of)[min(merges, len(self.lengths) - 1)])

    def merges_for(self, percent: float, of: Share = "base") -> int:
        """The fewest merges that save ``percent``.

        Raises:
            ConfigError: a percentage that no number of merges reached here, or an unknown ``of``.
        """
        saved = self._saved(of)
        enough = np.flatnonzero(saved >= percent - 1e-9)
        if percent < 0 or not enough.size:
            raise ConfigError(
                f"reduction: got {percent} % of {of}, allowed 0 to {saved[-1]:.2f}, what {len(saved) - 1} merges saved "
                "on the texts of this table; lower minimum or take a wider boundary to save more"
            )
        return int(enough[0])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CalibrationTable:
        """Raises InputError when it is no table."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "lengths": tuple(map(float, fields["lengths"]))})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"calibration table: {error}; write one with to_json") from error

    def _saved(self, of: str) -> NDArray[np.float64]:
        """(M + 1,) percent saved after 0, 1, … merges."""
        if of not in get_args(Share):
            raise ConfigError(f"of: got {of!r}, allowed {', '.join(get_args(Share))}")
        lengths = np.array(self.lengths)
        whole = lengths[0] if of == "base" else lengths[0] - self.least
        return 100.0 * (lengths[0] - lengths) / whole if whole > 0 else np.zeros(len(lengths))


def calibrate(tokenizer: DynamicTokenizer, batches: Iterable[Sequence[str]]) -> CalibrationTable:
    """Measure a table on batches of texts.

    Raises:
        ConfigError: ``per_sample`` or ``first_met``, which this table does not describe.
        InputError: there is no row.
    """
    if tokenizer.per_sample or tokenizer.tie != "lexical":
        raise ConfigError("calibrate: got per_sample or tie first_met, allowed batches with tie lexical")
    sizes, least, saved = [], 0, []
    base = 0
    for texts in batches:
        batch = tokenizer.encode(texts, None)
        sizes.append(len(batch))
        base += len(batch.base_ids)
        least += int(batch.units.sum())
        saved.append(np.array(batch.applied, np.int64))
    rows = sum(sizes)
    if not rows:
        raise InputError("calibrate: got no rows, allowed one at least; give batches like those to come")
    total = np.zeros(max(map(len, saved)), np.int64)
    for one in saved:
        total[: len(one)] += one
    lengths = base - np.concatenate([np.zeros(1, np.int64), np.cumsum(total)])
    return CalibrationTable(
        lengths=tuple((lengths / rows).tolist()),
        least=least / rows,
        rows=sizes[0] if len(set(sizes)) == 1 else None,
        boundary=tokenizer.boundary,
        words=tokenizer.words,
        minimum=tokenizer.minimum,
    )

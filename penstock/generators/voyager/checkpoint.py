"""A voyage on disk: one file a round, so that a killed one goes on as if nothing had happened.

    start.json          what decides the voyage
    sample.json         the first sample
    round-00000.json    what was decided in a round, and the state after it

Each file is replaced in one operation and holds only its own round, so writing costs the same in round 1 and in round
200. What a file says after a round is all that the next one needs: anchors, explorers, kernel, threshold. An explorer
is written as its id, its parent's, its prompt and its gradient, and its root makes it again (``Explorer.restore``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.checked import sealed, unsealed
from penstock.dataset import hash_json
from penstock.errors import DatasetError
from penstock.generators.voyager.records import Decision, ExplorerFacts, RoundRecord
from penstock.storage import Folder

START = "start.json"
FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A round and the state after it; ``anchors`` are ids, ``explorers`` those of the next round."""

    decisions: Sequence[Decision]
    record: RoundRecord
    proposers: Sequence[ExplorerFacts]
    anchors: Sequence[str]
    explorers: Sequence[ExplorerFacts]
    kernel: Mapping[str, Any] | None
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "decisions": [one.to_json() for one in self.decisions],
            "record": self.record.to_json(),
            "proposers": [asdict(one) for one in self.proposers],
            "anchors": list(self.anchors),
            "explorers": [asdict(one) for one in self.explorers],
            "kernel": self.kernel,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Saved:
        return cls(
            decisions=[Decision.from_json(one) for one in value["decisions"]],
            record=RoundRecord.from_json(value["record"]),
            proposers=[ExplorerFacts(**one) for one in value["proposers"]],
            anchors=value["anchors"],
            explorers=[ExplorerFacts(**one) for one in value["explorers"]],
            kernel=value["kernel"],
            threshold=value["threshold"],
        )


@dataclass(frozen=True)
class Checkpoint:
    """The files of one voyage.

    Attributes:
        folder: its own.
        identity: what decides the voyage, as JSON values.
    """

    folder: Folder
    identity: Mapping[str, Any]

    def save(self, saved: Saved) -> None:
        text = json.dumps(sealed(saved.to_json()), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        self.folder.write_bytes(_name(saved.record.round), text.encode("ascii"))

    def load(self, sampled: bool) -> list[Saved]:
        """The rounds that are there, without a gap; marks an empty folder as this voyage's.

        Args:
            sampled: whether the voyage begins with a first sample.

        Raises:
            DatasetError: the folder holds another voyage, or a file of it cannot be read.
        """
        mark = {"format": FORMAT, "identity": hash_json(self.identity)}
        if not self.folder.exists(START):
            self.folder.write_json(START, mark)
            return []
        out: list[Saved] = []
        try:
            if self.folder.read_json(START) != mark:
                raise DatasetError(
                    f"{self.folder.url}: holds a voyage of other settings, explorers, gates or of another seed; name "
                    "another folder, or delete this one"
                )
            number = -1 if sampled else 0
            while self.folder.exists(_name(number)):
                out.append(Saved.from_json(unsealed(self.folder.read_json(_name(number)))))
                number += 1
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{self.folder.url}: a file of the checkpoint is damaged ({error}); delete the folder and run again"
            ) from error
        return out


def _name(round: int) -> str:
    return "sample.json" if round < 0 else f"round-{round:05d}.json"

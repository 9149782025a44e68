"""Steps that a round has beside those of a run: a model that goes on, what was made so far, two models compared."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import Counts, Dataset
from penstock.errors import DatasetError
from penstock.pipelines.documents import config_of
from penstock.pipelines.generate import WriteVoyage
from penstock.pipelines.passes import splits_of
from penstock.pipelines.sequences import files_by_domain
from penstock.refreshing.taken import local_artifacts
from penstock.sources.made import COLUMNS
from penstock.step import Built, Context, Step
from penstock.torch_threads import torch_threads
from penstock.training.config import TrainConfig
from penstock.training.step import TrainStep, local_folder

SPLITS = ("new", "old")
_DIGITS = 9  # of losses in a manifest


class ContinuedTraining(TrainStep):
    """The accepted model trained further on the round's sequences: its moments, steps and mixture log go on."""

    revision = 1
    libraries = ("torch", "transformers")

    def __init__(
        self,
        name: str,
        sequences: str,
        tokenizer: str,
        before: str,
        config: TrainConfig,
        budget: float | None = None,
    ) -> None:
        """``before`` names the step with the checkpoint; ``config.steps`` are those to come."""
        super().__init__(name, sequences, tokenizer, config, budget)
        self.parents = (sequences, tokenizer, before)

    def before(self, context: Context, local: Path) -> Path:
        return local_artifacts(context.parents[self.parents[2]], "checkpoints", local / "before")


class MadeSoFar(Step):
    """What rounds made, together: the items of this one and those that the accepted round has."""

    revision = 1

    def __init__(self, name: str, parents: tuple[str, ...]) -> None:
        self.name, self.parents = name, parents

    def config(self) -> dict[str, Any]:
        return {}

    def build(self, context: Context) -> Built:
        datasets = [context.parents[name] for name in self.parents]
        tables = {
            name: pa.concat_tables([of.read(name) for of in datasets if name in of.manifest.tables])
            for name in COLUMNS
            if any(name in of.manifest.tables for of in datasets)
        }
        receipts = context.run("write", WriteVoyage(tables), splits_of([[of.digest for of in datasets]]))
        built = context.collect(receipts, *tables)
        rows = sum(table.num_rows for table in tables.values())
        built.counts = Counts(rows_in=rows, kept=rows)
        return built


class Comparison(Step):
    """Losses of the accepted model and of the round's on the validation sequences of both their datasets."""

    revision = 1
    libraries = ("torch", "transformers")

    def __init__(
        self,
        name: str,
        new: tuple[str, str],
        old: tuple[str, str],
        config: TrainConfig,
        sequences: int,
    ) -> None:
        """
        Args:
            new, old: names of the steps of sequences and of the model.
            config: says how a model reads sequences, and on what it runs.
            sequences: most of a split.
        """
        self.name, self.parents, self.train, self.sequences = name, (*new, *old), config, sequences

    def config(self) -> dict[str, Any]:
        names = ("batch_size", "micro_batch_size", "cross_document_attention", "precision")
        return {"sequences": self.sequences} | {n: config_of(self.train)[n] for n in names}

    def build(self, context: Context) -> Built:
        from penstock.training.paired import paired

        new, new_model, old, old_model = (context.parents[name] for name in self.parents)
        local = local_folder(context)
        tables, found = [], {}
        with torch_threads(self.train.threads):
            measured = [
                self._losses(context, model, (new, old), local / name)
                for name, model in (("before", old_model), ("after", new_model))
            ]
        for split, before, after in zip(SPLITS, *measured, strict=True):
            compared = paired(before["nats"], after["nats"], before["tokens"])
            if compared is None:
                raise DatasetError(
                    f"{self.name}: the {split} dataset holds no validation sequence to compare models on; raise "
                    "splits.validation"
                )
            found[split] = {name: _plain(value) for name, value in vars(compared).items()}
            tables.append(
                pa.table(
                    {
                        "split": pa.array([split] * len(before["nats"]), pa.string()),
                        "domain": pa.array(before["domain"], pa.string()),
                        "row": pa.array(before["row"], pa.int64()),
                        "tokens": pa.array(before["tokens"].astype(np.int64)),
                        "before": pa.array(before["nats"]),
                        "after": pa.array(after["nats"]),
                    }
                )
            )
        receipts = context.run("write", WriteVoyage({"losses": pa.concat_tables(tables)}), splits_of([found]))
        built = context.collect(receipts, "losses")
        built.stats["compared"] = found
        if not context.folder.is_local:
            shutil.rmtree(local, ignore_errors=True)
        return built

    def _losses(
        self, context: Context, model: Dataset, of: tuple[Dataset, Dataset], local: Path
    ) -> list[dict[str, Any]]:
        """By split: nats and tokens of every sequence that is compared, with its domain and row."""
        from penstock.training.distributed import Ranks, device_of
        from penstock.training.model import PackedInputs, load_local, logits_function, token_losses
        from penstock.training.paired import sequence_losses, shared_rows
        from penstock.training.sequences import SequenceStore

        config = self.train
        loaded = load_local(str(local_artifacts(model, "model", local)), what="model").to(
            device_of(config.device, Ranks())
        )
        bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and loaded.device.type == "cuda")
        logits_of = logits_function(loaded)

        def losses_of(inputs: PackedInputs) -> Any:
            return token_losses(logits_of, inputs, cross_document_attention=config.cross_document_attention)

        out = []
        for sequences in of:
            manifest = sequences.manifest
            files = {
                domain: [sequences.folder.join(path) for path in paths]
                for domain, paths in files_by_domain(manifest.tables, manifest.stats["domains"], "validation").items()
            }
            if not files:
                none: NDArray[np.float64] = np.zeros(0)
                out.append({"nats": none, "tokens": none, "domain": [], "row": []})
                continue
            store = SequenceStore.open(files, cache=local_folder(context) / "cache")
            domain, row = shared_rows(store, self.sequences)
            nats, tokens = sequence_losses(
                loaded,
                losses_of,
                store,
                domain,
                row,
                size=config.micro_batch_size or config.batch_size,
                bfloat16=bfloat16,
            )
            out.append({"nats": nats, "tokens": tokens, "domain": [store.domains[k] for k in domain], "row": row})
        return out


def _plain(value: Any) -> Any:
    """A number as JSON has it; one that is not finite as text."""
    if not isinstance(value, float):
        return value
    return round(value, _DIGITS) if math.isfinite(value) else str(value)

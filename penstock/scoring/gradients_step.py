"""Gradient features of texts as a step: what a training step on each would do to a warmed-up model's factors.

    warm-up   a sample of the texts -> LoRA factors and Adam's moments, a checkpoint an epoch      (resumes per epoch)
    gradients split -> one backward pass a checkpoint -> part                                      (resumes per part)

The table ``gradients`` has one row a text: ``doc_id``, ``domain``, ``has_gradient`` and ``checkpoint_1`` … as
``FixedSizeList<float16>[dimensions]`` of length 1, in the directions of Adam under each checkpoint. Inner products with
the plain gradients of a target are LESS's influence (``selectors.targeted.less``); rows with high inner products teach
the same. Zeros stand where a text has no gradient.

Price: that of ``less_features``; 2 x dimensions bytes a text and checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock.errors import DatasetError
from penstock.pipelines.passes import PartWriter, Split
from penstock.scoring import model as models
from penstock.scoring.corpus import TEXTS_PER_SPLIT, Corpus, read_range
from penstock.scoring.step import OfTexts
from penstock.seeding import hash_ids
from penstock.step import Built, Context, Settings
from penstock.storage import Folder

if TYPE_CHECKING:
    from penstock.selectors.targeted.less import LESS, GradientFeatures

GRADIENTS = "gradients"


def learnable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with the columns that LESS reads; without ``learn`` all of a text is learned."""
    columns = {name: batch[name] for name in ("doc_id", "domain", "text")}
    columns["id_hash"] = pa.array(hash_ids(batch["doc_id"].to_pylist()))
    learn = pa.list_(pa.int32())
    columns["learn"] = batch["learn"] if "learn" in batch.schema.names else pa.nulls(batch.num_rows, learn)
    return pa.RecordBatch.from_pydict(columns)


@dataclass(frozen=True)
class CorpusRows:
    """All texts of a corpus, as often as they are iterated over."""

    corpus: Corpus

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for split in self.corpus.splits():
            for batch in read_range(self.corpus.folder, split.payload, more=("learn",)):
                yield learnable(batch)


@dataclass(frozen=True)
class GradientsOfTexts:
    """Gradient features of one split."""

    folder: Folder
    gradients: GradientFeatures

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in read_range(self.folder, split.payload, more=("learn",)):
            rows = learnable(batch)
            found = self.gradients.of(rows)
            there = ~np.isnan(found[0][:, 0])
            columns: dict[str, Any] = {
                "doc_id": rows["doc_id"],
                "domain": rows["domain"],
                "has_gradient": pa.array(there),
            }
            for number, features in enumerate(found, 1):
                values = pa.array(np.where(there[:, None], features, np.float16(0)).ravel(), pa.float16())
                columns[f"checkpoint_{number}"] = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
            out.count(rows_in=batch.num_rows, kept=batch.num_rows)
            out.add_stats({"with_gradient": int(there.sum())})
            out.write(GRADIENTS, pa.RecordBatch.from_pydict(columns))


class GradientTexts(OfTexts):
    """Gradient features of texts under one language model."""

    revision = 1
    modules = (
        "penstock.selectors.targeted.less_features",
        "penstock.selectors.targeted.lora_gradients",
        "penstock.selectors.targeted.projection",
    )
    libraries = ("tokenizers", "torch", "transformers")

    def __init__(self, name: str, texts: Corpus | str, work: LESS, *, texts_per_split: int = TEXTS_PER_SPLIT) -> None:
        super().__init__(name, texts)
        self.work, self.texts_per_split = work, texts_per_split

    def config(self) -> dict[str, Any]:
        said = asdict(self.work)
        for place in self.work.paths:  # where things are and in which batches they run decides nothing
            said.pop(place)
        return {"less": said, "revision": self.work.revision}

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {"model": models.fingerprint(self.work.model)} | super().inputs(settings)

    def build(self, context: Context) -> Built:
        corpus = self.corpus(context)
        gradients = self.work.warm_up(CorpusRows(corpus), context.folder.join(context.prefix))
        work = GradientsOfTexts(corpus.folder, gradients)
        built = context.collect(context.run(GRADIENTS, work, corpus.splits(self.texts_per_split)), GRADIENTS)
        if GRADIENTS not in built.tables:
            raise DatasetError(f"{corpus.folder.url}: holds no text; name another corpus")
        for checkpoint in gradients.checkpoints:
            built.artifacts |= context.adopt_artifact(checkpoint.path)
        built.stats["warmup"] = [checkpoint.facts() for checkpoint in gradients.checkpoints]
        return built

"""Steps that turn documents into vectors.

    embedder   the model: a table as an artifact, or what identifies a folder or a server
    embedded   part -> its vectors, in the same parts and order as the documents

The ``embeddings`` table has one row a document (``doc_id``, ``embedding``) and no text; later steps join it by position
(``aligned``). A part of documents that did not change is not embedded again.

The key of ``embedder`` holds the digest of the model's files and the settings; its digest says what the model is. A
server that moves to another address is probed again, and when it gives the same vectors nothing after it is rebuilt.

Price: that of the embedder; memory is a batch of texts, and the model in each worker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock import work as rowwork
from penstock.dataset import Dataset, FileEntry, hash_json, read_part, side_by_side
from penstock.embedding import distil, sentences
from penstock.embedding.base import Embed, Embedder
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.embedding.endpoint import Endpoint
from penstock.embedding.sentences import SentenceFolder
from penstock.embedding.static import StaticVectors, save_static
from penstock.errors import DatasetError
from penstock.pipelines.documents import aligned_parts, part_splits
from penstock.pipelines.passes import PartWriter, Split
from penstock.sources.base import InputFile
from penstock.step import Built, Context, Settings, Step, library_versions
from penstock.storage import Folder

FACTS = "embedder.json"
_SENTENCE_LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")


class EmbedderStep(Step):
    """The embedding model of a run, as an artifact or by what identifies it."""

    revision = 1
    libraries = ("tokenizers",)
    fitted = True  # another machine may distil other last bits, and all vectors with them

    def __init__(self, name: str, model: Any, budget: float | None = None) -> None:
        """``model`` is that of an EmbedConfig: ``static`` or a ModelConfig."""
        self.name, self.model, self.budget = name, model, budget

    @property
    def kind(self) -> str:
        """``distilled`` here, ``static`` from a model2vec folder, ``folder`` or ``endpoint``."""
        if not isinstance(self.model, ModelConfig):
            return "distilled"
        if self.model.url is not None:
            return "endpoint"
        return "static" if distil.is_model2vec(Path(str(self.model.path))) else "folder"

    def config(self) -> dict[str, Any]:
        kind = self.kind
        settings: dict[str, Any] = {"kind": kind}
        if kind == "distilled":
            settings |= {"distillation": distil.SETTINGS, "libraries": library_versions(distil.LIBRARIES)}
        elif kind == "folder":
            settings |= {"libraries": library_versions(_SENTENCE_LIBRARIES), "revision": SentenceFolder.revision}
        elif kind == "endpoint":
            settings |= {"url": self.model.url, "model": self.model.model, "revision": self.model.revision}
        return settings

    def inputs(self, settings: Settings) -> dict[str, str]:
        files = self._files()
        above = len(os.path.commonpath([file.parent for file in files])) + 1 if files else 0
        return {str(file)[above:]: settings.fingerprint(InputFile.local(file)) for file in files}

    def _files(self) -> list[Path]:
        """Files of the model, whose bytes are in the key."""
        kind = self.kind
        if kind == "distilled":
            return distil.packaged_files()
        if kind == "static":
            return [Path(self.model.path) / name for name in ("model.safetensors", "tokenizer.json")]
        return sentences.folder_files(self.model.path) if kind == "folder" else []

    def build(self, context: Context) -> Built:
        kind = self.kind
        facts: dict[str, Any] = {"kind": "static" if kind == "distilled" else kind}
        built = Built()
        if kind in ("distilled", "static"):
            note = context.reporter.note
            if kind == "distilled":
                table, tokenizer = distil.distilled(lambda message: note(f"{self.name}: {message}"))
            else:
                table, tokenizer = distil.read_table(Path(self.model.path))
            path, digest = save_static(context.folder.join(context.prefix), table, tokenizer, {})
            built.artifacts |= context.adopt_artifact(path)
            facts |= {"path": context.adopt(path).path, "digest": digest, "dimensions": int(table.shape[1])}
        elif kind == "folder":
            digest = sentences.folder_digest(self.model.path)
            model = sentences.load(self.model.path, digest, self.model.device)
            facts |= {"digest": digest, "dimensions": sentences.dimensions_of(model)}
        else:
            vectors = endpoint_of(self.model, 0).probe()
            facts |= {"model": self.model.model, "revision": self.model.revision, "dimensions": vectors.shape[1]}
            # coarse enough for the noise of a server, fine enough to tell two models apart
            facts["probe"] = [[round(float(x), 2) + 0.0 for x in row[:16]] for row in vectors]
        if kind in ("folder", "endpoint"):
            body = json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"
            built.artifacts[FACTS] = context.write_artifact(FACTS, body)
        built.stats = {"embedder": facts}
        return built


def endpoint_of(model: ModelConfig, dimensions: int) -> Endpoint:
    """The embedder of a recipe's server."""
    return Endpoint(
        url=str(model.url),
        model=str(model.model),
        dimensions=dimensions,
        api_key_env=model.api_key_env,
        batch_size=model.batch_size,
        concurrency=model.concurrency,
        timeout=model.timeout,
        attempts=model.attempts,
    )


def embedder_of(dataset: Dataset, model: Any) -> Embedder:
    """The embedder that a committed ``embedder`` step stands for.

    Args:
        model: the recipe's, which says where a folder or a server is.
    """
    facts = dataset.manifest.stats["embedder"]
    if facts["kind"] == "static":
        path = dataset.folder.join(facts["path"])
        return StaticVectors(path=path, digest=facts["digest"], dimensions=facts["dimensions"])
    if facts["kind"] == "endpoint":
        return endpoint_of(model, facts["dimensions"])
    return SentenceFolder(
        path=str(Path(model.path).absolute()),
        digest=facts["digest"],
        dimensions=facts["dimensions"],
        device=model.device,
        batch_size=model.batch_size,
    )


@dataclass(frozen=True)
class EmbedPart:
    """The vectors of one part of documents."""

    parent: Folder
    work: Embed

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in read_part(self.parent, split.payload.file, ("doc_id", "text")):
            result = rowwork.apply([self.work], batch)
            out.applied(result)
            out.count(rows_in=batch.num_rows, kept=batch.num_rows)
            vectors = result.batch["embedding"]
            out.add_stats({"no_vector": zero_rows(vectors)})
            out.write("embeddings", pa.RecordBatch.from_arrays([batch["doc_id"], vectors], ["doc_id", "embedding"]))


def zero_rows(vectors: pa.FixedSizeListArray) -> int:
    """Rows that are the zero vector."""
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), vectors.type.list_size)
    return int((~values.any(axis=1)).sum())


class Embedded(Step):
    """Vectors of all documents, in their parts and order."""

    revision = 1

    def __init__(
        self, name: str, documents: str, embedder: str, embed: EmbedConfig, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.embed, self.budget = name, (documents, embedder), embed, budget

    def config(self) -> dict[str, Any]:
        # where a model runs and how requests are cut is not what it computes; what it is, the parent's digest says
        return {"work": {"name": Embed.name, "revision": Embed.revision, "characters": self.embed.characters}}

    def build(self, context: Context) -> Built:
        documents, model = (context.parents[name] for name in self.parents)
        work = Embed(embedder=embedder_of(model, self.embed.model), characters=self.embed.characters)
        table = documents.table("documents")
        reuse = self.config() | {"embedder": model.digest}
        receipts = context.run("embed", EmbedPart(documents.folder, work), part_splits(table), reuse=reuse)
        built = context.collect(receipts, "embeddings")
        built.stats["dimensions"] = model.manifest.stats["embedder"]["dimensions"]
        without = built.stats.get("no_vector", 0)
        if without:
            context.reporter.note(f"{self.name}: {without:,} of {table.rows:,} documents have no vector")
        return built


# ── documents with their vectors ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class AlignedSplit:
    """A part of documents and the part of embeddings beside it."""

    part: int
    documents: FileEntry
    embeddings: FileEntry


def aligned_splits(step: str, documents: Dataset, embedded: Dataset) -> list[Split]:
    """One split a part; its memo is the content of both files.

    Raises:
        DatasetError: the parts do not hold the same rows; they are joined by position.
    """
    texts, vectors = documents.table("documents").files, aligned_parts(step, documents, embedded, "embeddings")
    return [
        Split(i, AlignedSplit(i, text, vector), memo=hash_json([text.sha256, vector.sha256]))
        for i, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]


def aligned(
    documents: Folder, embedded: Folder, split: AlignedSplit, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of a part of documents with their ``embedding``.

    Raises:
        DatasetError: a row's ``doc_id`` is not that of the vector beside it.
    """
    wanted = None if columns is None else tuple(dict.fromkeys(("doc_id", *columns)))
    vectors = read_part(embedded, split.embeddings, ("doc_id", "embedding"))
    for batch, beside in side_by_side(read_part(documents, split.documents, wanted), vectors):
        if not beside["doc_id"].equals(batch["doc_id"]):
            raise DatasetError(f"{embedded.join(split.embeddings.path)}: its rows are of other documents; delete it")
        yield rowwork.with_columns(batch, {"embedding": beside["embedding"]})

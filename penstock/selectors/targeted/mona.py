"""MONA: rows whose pooled sparse code is like the target's, by generalised Jaccard (arXiv 2503.15573).

    z_tgt = (1/M) SUM_j z_j                                       prototype of M target rows, whatever their task
    J(z, z_tgt) = SUM_k min(z[k], z_tgt[k]) / SUM_k max(z[k], z_tgt[k])          in [0, 1], 1 for equal codes

For codes without negative entries the sum of the maxima is |z| + |z_tgt| minus that of the minima, so J costs one look
at every non-zero of z; the prototype is the one dense vector. Codes come from a sparse autoencoder, given or trained on
the pool's hidden states, or from hashed n-grams (``mona_codes``); ``jaccard`` takes any others, such as router scores.

Price: one forward pass over pool and target, 2 d d' operations a token; J itself is nothing beside it. Training an
autoencoder holds ``sae_tokens`` hidden states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.scoring import model as models
from penstock.seeding import stream
from penstock.selectors import artifact
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.targeted.base import check_target, scores_array, summary_of
from penstock.selectors.targeted.less import LIBRARIES
from penstock.selectors.targeted.mona_codes import Autoencoder, Csr, HiddenStates, NgramCode, SaeCode
from penstock.selectors.targeted.sae import SaeTraining, sae_digest, sae_files, save_sae, train_sae
from penstock.sources.base import InputFile

Floats = NDArray[np.float64]


def jaccard(codes: Csr, prototype: Floats) -> Floats:
    """Generalised Jaccard of each row with the prototype: shape (n,), NaN where both are empty. O(non-zeros).

    Args:
        codes: CSR, (n, d'), no entry negative.
        prototype: dense, (d',), no entry negative.

    Raises:
        DatasetError: an entry is negative or no number, or the widths differ.
    """
    if codes.shape[1] != len(prototype):
        raise DatasetError(
            f"codes: got {codes.shape[1]} columns, expected {len(prototype)}; make both with one encoder"
        )
    values = codes.data.astype(np.float64)
    for entries in (values, prototype):
        if len(entries) and not entries.min() >= 0:
            raise DatasetError(
                f"codes: got an entry of {entries.min()}, allowed >= 0; take codes after a ReLU, or their positive part"
            )
    count = codes.shape[0]
    row = np.repeat(np.arange(count), np.diff(codes.indptr))
    overlap = np.bincount(row, weights=np.minimum(values, prototype[codes.indices]), minlength=count)
    total = np.bincount(row, weights=values, minlength=count) + prototype.sum() - overlap
    found: Floats = np.divide(overlap, total, out=np.full(count, np.nan), where=total > 0)
    return found


def prototype_of(codes: Csr) -> Floats:
    """Mean of the rows (M, d') that have any code: dense, (d',). Zero when none has."""
    filled = np.diff(codes.indptr) > 0
    mean: Floats = np.asarray(codes.sum(axis=0), dtype=np.float64).ravel() / max(int(filled.sum()), 1)
    return mean


@dataclass(frozen=True, kw_only=True)
class MONA:
    """Similarity of sparse codes to a target.

    Args:
        code: ``sae``, or ``ngrams`` (words and pairs, no model).
        model: folder of a causal LM, which ``sae`` needs; n-grams do not look at it.
        sae: an autoencoder of it (``sae.sae_files``); None trains one on the pool.
        layer: see ``mona_codes.HiddenStates``; None is the last block but one, as in the paper.
        k: latents that fire; None is as many as the autoencoder was trained with.
        max_tokens, device, dtype, batch_tokens: see ``HiddenStates``.
        expansion, sae_epochs: of an autoencoder that is trained, see ``sae.SaeTraining``.
        sae_texts: rows of the pool, by the hash of their ids, that it is trained on.
        sae_tokens: at most so many of their tokens.
        bits: 2**bits columns of ``ngrams``.
        seed: of the sample and of training.
    """

    code: Literal["sae", "ngrams"] = "sae"
    model: str | None = None
    sae: str | None = None
    layer: int | None = None
    k: int | None = None
    max_tokens: int = 512
    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int = 2048
    expansion: int = 16
    sae_epochs: int = 4
    sae_texts: int = 2048
    sae_tokens: int = 131_072
    bits: int = 18
    seed: int = 0

    name: ClassVar[str] = "mona"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.mona"
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "id_hash", "text")
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES
    paths: ClassVar[tuple[str, ...]] = ("model", "sae", "device", "batch_tokens")

    def __post_init__(self) -> None:
        if self.code not in ("sae", "ngrams"):
            raise ConfigError(f"mona code: got {self.code!r}, allowed sae, ngrams; choose one")
        if self.code == "sae" and self.model is None:
            raise ConfigError(
                "mona: got code sae without a model, allowed sae with one or ngrams; name a causal language "
                "model's folder, or the code ngrams"
            )
        if self.code == "ngrams" and self.sae is not None:
            raise ConfigError("mona: got code ngrams with an autoencoder, allowed sae with one; choose the code sae")
        for name, least in (("max_tokens", 2), ("batch_tokens", 1), ("sae_texts", 1), ("sae_tokens", 40)):
            if getattr(self, name) < least:
                raise ConfigError(f"mona {name}: got {getattr(self, name)}, allowed >= {least}; raise it")
        _ = self._training, self._ngrams  # settings out of range are refused here

    @property
    def _training(self) -> SaeTraining:
        return SaeTraining(expansion=self.expansion, k=self.k, epochs=self.sae_epochs)

    @property
    def _ngrams(self) -> NgramCode:
        return NgramCode(bits=self.bits)

    def files(self) -> list[InputFile]:
        """Files of the model and of a given autoencoder. Raises ConfigError when they are not there."""
        if self.model is None or self.code == "ngrams":
            return []
        found = models.input_files(self.model)
        own = () if self.sae is None else sae_files(self.sae)
        return found + [InputFile.local(file, f"sae {file.name}") for file in own]

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> MonaScore:
        """The target's prototype, and an autoencoder where none is given, saved under ``folder``.

        Raises:
            ConfigError: the target is empty or none of its rows has a code; no causal LM at ``model``; an autoencoder
                that does not fit it, or too few tokens to train one.
        """
        check_target(target, self.reads, method=self.name)
        facts: dict[str, Any] = {}
        code: SaeCode | NgramCode = self._ngrams
        if self.model is not None and self.code == "sae":
            code, facts = self._sae_code(self.model, pool, folder)
        codes = code.codes(target["text"].combine_chunks())
        used = int((np.diff(codes.indptr) > 0).sum())
        if not used:
            raise ConfigError(
                f"mona target: got {target.num_rows} row(s) without a token, allowed texts; look at its files"
            )
        prototype = prototype_of(codes)
        where = np.flatnonzero(prototype)
        facts |= {
            "target_rows": used,
            "target_rows_unread": target.num_rows - used,
            "width": len(prototype),
            "latents_of_target": len(where),
        }
        arrays = {"latents": where.astype(np.int64), "values": prototype[where]}
        path, digest = artifact.save(folder, self.name, arrays, facts)
        return MonaScore(path=path, digest=digest, code=code)

    def _sae_code(self, model: str, pool: Iterable[pa.RecordBatch], folder: str) -> tuple[SaeCode, dict[str, Any]]:
        hidden = HiddenStates(
            model=model,
            digest=models.fingerprint(model),
            layer=self.layer,
            max_tokens=self.max_tokens,
            device=self.device,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
        )
        if self.sae is not None:
            return SaeCode(hidden=hidden, sae=Autoencoder(path=self.sae, digest=sae_digest(self.sae), k=self.k)), {}
        sampling = Sampling(seed=self.seed, purpose="mona autoencoder", rows=self.sae_texts)
        sample: BottomK = summary_of(pool, "autoencoder-sample", sampling.of, BottomK)
        found, facts = train_sae(self._states(hidden, sample.rows["text"]), self._training, seed=self.seed)
        path, _ = save_sae(folder, found, facts)
        code = SaeCode(hidden=hidden, sae=Autoencoder(path=path, digest=sae_digest(path)))
        return code, {f"sae_{name}": value for name, value in facts.items()} | {"sae_k": found.k}

    def _states(self, hidden: HiddenStates, texts: pa.ChunkedArray) -> Any:
        """Hidden states (t, d) of the texts' tokens, ``sae_tokens`` of them drawn when there are more."""
        import torch

        parts = [states.float().cpu() for _, states in hidden.read(texts.to_pylist())]
        if not parts:
            raise ConfigError("mona: got no token in the pool's sample to train an autoencoder on; look at the pool")
        states = torch.cat(parts)
        if len(states) > self.sae_tokens:
            drawn = np.sort(stream(self.seed, "mona tokens").permutation(len(states))[: self.sae_tokens])
            states = states[torch.from_numpy(drawn)]
        return states.to(hidden.setup()[0].device)


@dataclass(frozen=True, kw_only=True)
class MonaScore:
    """Annotator: ``score.mona``, the Jaccard similarity of a row's code with the target's; none for an empty text."""

    path: str
    digest: str
    code: SaeCode | NgramCode

    name: ClassVar[str] = "mona"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = (MONA.column,)

    def setup(self) -> None:
        artifact.load(self.path, self.digest)

    def artifacts(self) -> tuple[str, ...]:
        """Files that belong to the scores: also an autoencoder that lies beside them, as it was trained for them."""
        beside = self.path.rpartition("/")[0]
        own = isinstance(self.code, SaeCode) and self.code.sae.path.rpartition("/")[0] == beside
        return (self.path, self.code.sae.path) if own and isinstance(self.code, SaeCode) else (self.path,)

    def facts(self) -> dict[str, Any]:
        """``target_rows``, ``width``, ``latents_of_target``; ``sae_unexplained`` and more of one that was trained."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        loaded = artifact.load(self.path, self.digest)
        prototype = np.zeros(loaded.facts["width"])
        prototype[loaded.arrays["latents"]] = loaded.arrays["values"]
        codes = self.code.codes(batch["text"])
        return {MONA.column: scores_array(jaccard(codes, prototype), np.diff(codes.indptr) > 0)}

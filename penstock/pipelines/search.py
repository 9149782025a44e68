"""The step that looks for the parameters of the selection by training small models on what they select.

    target    held-out part -> some of its token ids            (or files -> cleaned, encoded)
    pool      part -> a sample of its training rows: scores and token ids, no text; content that the target shares
    proxies   trial -> losses of a small model, in ``measured/``, whatever the key: see ``selectors.proxies.measure``
    write     tables ``theta`` and ``proxies``

The artifact ``search.json`` holds what was found and why, and ``parameters``: the QuaDMix parameters that every
selection of the run takes. A proxy's selection has the same share of the pool as the real one of the corpus, so
documents are repeated as often. The validation split is looked at here; the test split is not.

Price: two reads of the small columns, memory for the sample's token ids in each worker, and the proxies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import Dataset, hash_json, read_part
from penstock.errors import DatasetError
from penstock.pipelines.documents import config_of, part_splits
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Split, splits_of
from penstock.selectors.proxies.config import ProxyConfig, SearchConfig
from penstock.selectors.proxies.data import Proxy, ProxyData, TokenDocuments
from penstock.selectors.proxies.loop import LoopProxy
from penstock.selectors.proxies.measure import ProxyMeasure, Selected
from penstock.selectors.proxies.ngram import NgramProxy
from penstock.selectors.proxies.records import proxies_table, theta_table, without_seconds
from penstock.selectors.proxies.target import (
    EncodeTarget,
    ReadTarget,
    disjoint,
    first_documents,
    named_domains,
    rows_for,
    target_sampling,
)
from penstock.selectors.quadmix_theta import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.search.mixture_space import MixtureSpace
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import ThetaSpace
from penstock.selectors.search.trials import Measured
from penstock.sources.files import FileSource
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder
from penstock.tokenization.encode import Encode

ARTIFACT = "search.json"


@dataclass(frozen=True)
class ReadPool:
    """A sample of one part's training rows, the sizes of all of them, and the content that they share with a target."""

    parent: Folder
    sampling: Sampling
    target: pa.Array  # content hashes

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: BottomK | None = None
        columns = tuple(dict.fromkeys(("split", "content_hash", *self.sampling.reads)))
        for batch in read_part(self.parent, split.payload.file, columns):
            train = batch.filter(pc.equal(batch["split"], "train"))
            sums = pa.table({"domain": train["domain"], "tokens": train["tokens"]}).group_by("domain")
            for row in sums.aggregate([("tokens", "sum"), ("tokens", "count")]).to_pylist():
                sizes = {"documents": row["tokens_count"], "tokens": row["tokens_sum"]}
                out.add_stats({"train": {row["domain"]: sizes}})
            out.write("overlap", train.filter(pc.is_in(train["content_hash"], self.target)).select(["content_hash"]))
            summary = self.sampling.of(train)
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


@dataclass(frozen=True)
class WriteTables:
    """Tables that the driver holds, as parts."""

    tables: dict[str, pa.Table]

    def __call__(self, split: Split, out: PartWriter) -> None:
        for name, table in self.tables.items():
            for batch in table.combine_chunks().to_batches():
                out.write(name, batch)


class Search(Step):
    """The parameters of the selection, found by proxies."""

    revision = 1
    libraries = ("lightgbm", "numpy", "torch", "transformers")

    def __init__(
        self,
        name: str,
        scored: str,
        tokenizer: str,
        search: SearchConfig,
        box: QuaDMixParameters,
        *,
        source: FileSource | None,
        works: tuple[Any, ...],
        seed: int,
        budget: float | None = None,
    ) -> None:
        """
        Args:
            box: its criteria, readings, bounds and budget hold; its parameters are what is looked for.
            source: the target's files, if it has any; ``works`` clean them as the corpus was cleaned.
        """
        self.name, self.parents, self.budget = name, (scored, tokenizer), budget
        self.search, self.box, self.source, self.works, self.seed = search, box, source, works, seed

    def config(self) -> dict[str, Any]:
        kind = self.search.proxy.kind
        chosen = config_of(self.search.proxy.chosen)
        chosen.pop("device", None)
        target = asdict(self.search.target)
        target.pop("files")
        return {
            "search": config_of(self.search) | {"proxy": {kind: chosen}, "target": target},
            "files": config_of(self.source) if self.source is not None else None,
            "works": [rowwork.describe(w) for w in self.works] if self.source is not None else [],
            "box": {name: value for name, value in asdict(self.box).items() if name not in ("default", "domains")},
            "proxy": NgramProxy.revision if kind == "ngram" else LoopProxy.revision,
            "encode": Encode.revision,
            "seed": self.seed,
        }

    def inputs(self, settings: Settings) -> dict[str, str]:
        files = [] if self.source is None else self.source.inputs()
        return {f"target:{file.name}": settings.fingerprint(file) for file in files}

    def build(self, context: Context) -> Built:
        from penstock.selectors.search.driver import search

        scored, tokenizer = (context.parents[name] for name in self.parents)
        target = self._target(context, scored, tokenizer)
        pool_rows, train, overlap = self._pool(context, scored, target)
        measured_on, left_out = disjoint(target, overlap)
        if left_out:
            context.reporter.warn(
                f"{self.name}: {left_out:,} of {target.num_rows:,} documents of the target stand in the training "
                "documents word for word; losses are taken on the others"
            )
        pool = Pool.of(pool_rows, self.box)
        rows = pool_rows.take(pa.array(pool.row))
        stats = tokenizer.manifest.stats
        data = ProxyData(
            TokenDocuments.of(rows["token_ids"], rows["domain"].to_pylist()),
            pool.id_hash,
            measured_on,
            stats["vocabulary"],
            stats["pad_id"],
        )
        space = self._space(pool)
        tokens = sum(of["tokens"] for of in train.values())
        wanted = self.box.target_tokens or max(1, round(self.search.share * tokens))
        proxy_tokens = max(1, round(wanted / tokens * int(pool.tokens.sum())))
        selected = Selected(space, pool, proxy_tokens, self.box.copy_cap)
        proxy = proxy_of(self.search.proxy, data, context.folder.join(context.prefix))

        def progress(purpose: str, done: int, total: int) -> None:
            context.reporter.progress(self, f"proxies ({purpose})", done, total)

        measure = ProxyMeasure(proxy, selected, context.folder, context.engine, progress)
        result = search(space, pool, measure, self.search, seed=self.seed)
        flagged = [m for m in result.measured if m.flag is not None]
        for warning in pool.warnings:
            context.reporter.warn(f"{self.name}: {warning}")
        if flagged:
            first = f"trial {flagged[0].trial.number}: {flagged[0].flag}"
            context.reporter.warn(
                f"{self.name}: {len(flagged)} of {len(result.measured)} proxies have no loss; first {first}"
            )
        context.reporter.note(f"{self.name}: {result.label}: {result.why}")
        found = without_seconds(result.to_json()) | {
            "settings": self.config()["search"],
            "target": measured_on.tokens_by_group(),
            "target_overlap": {"left_out": left_out, "documents": target.num_rows},
            "pool": {"documents": len(pool), "tokens": int(pool.tokens.sum()), "domains": list(pool.domains)},
            "train": train,
            "proxy_tokens": proxy_tokens,
            "parameters": config_of(self._parameters(space, result.unit, wanted)),
        }
        tables = {"theta": theta_table(space, result.measured), "proxies": proxies_table(result.measured)}
        entry = context.write_artifact(ARTIFACT, json.dumps(found, indent=1, allow_nan=False).encode() + b"\n")
        receipts = context.run("write", WriteTables(tables), splits_of([{"of": entry.sha256}]))
        built = context.collect(receipts, *tables)
        built.artifacts[ARTIFACT] = entry
        built.stats |= {
            "proxies": len(result.measured),
            "flagged": len(flagged),
            "claim": result.claim,
            "why": result.why,
            "target_overlap": left_out,
            "warnings": list(result.warnings),
        }
        self._log(context, result.measured)
        return built

    def _log(self, context: Context, measured: Sequence[Measured]) -> None:
        """Seconds of every proxy, below ``logs/`` of the run: they never repeat, so no table holds them."""
        root = context.folder.url.rstrip("/").rpartition("/")[0]
        lines = [json.dumps({"trial": m.trial.number, "label": m.trial.label, "seconds": m.seconds}) for m in measured]
        Folder(f"{root}/logs/{self.name}").write_bytes("proxies.jsonl", ("\n".join(lines) + "\n").encode())

    def _target(self, context: Context, scored: Dataset, tokenizer: Dataset) -> pa.Table:
        """Documents that losses are taken on: ``doc_id``, ``domain``, ``token_ids``, ``content_hash`` and more."""
        wanted = self.search.target
        if self.source is None:
            sizes = scored.manifest.stats["tokens"]
            domains = named_domains(wanted.domains, sizes)
            documents = {name: of["rows"] for name, of in scored.manifest.stats["domains"].items()}
            rows = rows_for(wanted.tokens, domains, sizes, documents)
            work: Any = ReadTarget(scored.folder, domains, target_sampling(self.seed, rows))
            receipts = context.run("target", work, part_splits(scored.table("documents")))
        else:
            file = tokenizer.manifest.artifacts["tokenizer.json"]
            encode = Encode(tokenizer_file=tokenizer.artifact("tokenizer.json"), sha256=file.sha256)
            sampling = target_sampling(self.seed, rows_for(wanted.tokens, (), {}, {}))
            work = EncodeTarget(self.source, (*self.works, encode), sampling)
            receipts = context.run("target", work, splits_of(self.source.plan(context.settings.split_bytes)))
        sample: BottomK | None = merge_summaries(context.folder, receipts, BottomK)
        if sample is None or not sample.num_rows:
            raise self._empty()
        return first_documents(sample, wanted.tokens)

    def _empty(self) -> DatasetError:
        if self.source is not None:
            return DatasetError(f"{self.name}: the files of select.search.target hold no document; look at them")
        return DatasetError(
            f"{self.name}: no document of {', '.join(map(repr, self.search.target.domains))} is in the validation "
            "split; raise splits.validation, name larger domains, or give select.search.target files of your own"
        )

    def _pool(self, context: Context, scored: Dataset, target: pa.Table) -> tuple[pa.Table, dict[str, Any], pa.Array]:
        """Sampled training rows, documents and tokens of all training rows by domain, hashes that the target has too.

        The sample is uniform over documents, so that domains keep their shares.
        """
        table = scored.table("documents")
        scores = tuple(c.column for c in self.box.criteria)
        absent = [name for name in scores if name not in table.columns]
        if absent:
            raise DatasetError(
                f"{self.name}: {', '.join(absent)} not in {scored.folder.url}; add the step that scores it"
            )
        all_tokens = sum(scored.manifest.stats["tokens"].values())
        rows = max(1, math.ceil(self.search.pool_tokens * table.rows / max(all_tokens, 1)))
        columns = ("id_hash", "domain", "tokens", "token_ids", *scores)
        sampling = Sampling(seed=self.seed, purpose="search pool", columns=columns, rows=rows)
        hashes = target["content_hash"].combine_chunks()
        work = ReadPool(scored.folder, sampling, hashes)
        # what is looked for in a part is in its split's name: other files of a target make other parts
        layout = hash_json(sorted(value.hex() for value in hashes.to_pylist()))
        receipts = context.run("pool", work, part_splits(table, layout))
        sample: BottomK | None = merge_summaries(context.folder, receipts, BottomK)
        if sample is None or not sample.num_rows:
            raise DatasetError(
                f"{self.name}: none of the {table.rows:,} documents is in the train split; lower splits.validation and "
                "splits.test, or bring more documents"
            )
        found = sample.rows.append_column("split", pa.repeat(pa.scalar("train"), sample.num_rows))
        read = context.collect(receipts, "overlap")
        learned = [
            batch["content_hash"]
            for entry in (read.tables["overlap"].files if "overlap" in read.tables else ())
            for batch in read_part(context.folder, entry)
        ]
        return (
            found,
            dict(sorted(read.stats["train"].items())),
            pa.concat_arrays(learned) if learned else hashes.slice(0, 0),
        )

    def _space(self, pool: Pool) -> ThetaSpace | MixtureSpace:
        """What is searched, over the domains of the pool."""
        if self.search.space == "mixture":
            return MixtureSpace.of(pool)
        box = self.box
        return ThetaSpace(
            criteria=box.criteria,
            domains=pool.domains,
            lambda_scale=self.search.lambda_scale,
            domain_multiplier=self.search.domain_multiplier,
            multiplier_max=self.search.multiplier_max,
            eta_mode=box.eta_mode,
            normalizer_scope=box.normalizer_scope,
            rank_at=box.rank_at,
            lam_max=box.lam_max,
            omega_max=box.omega_max,
            eps_max=box.eps_max,
        )

    def _parameters(self, space: ThetaSpace | MixtureSpace, unit: Sequence[float], tokens: int) -> QuaDMixParameters:
        """A point of the space as parameters of a selection of so many tokens."""
        if isinstance(space, ThetaSpace):
            return space.parameters(np.array(unit), target_tokens=tokens, copy_cap=self.box.copy_cap)
        # no window anywhere: every document of a domain has the same chance, and the multiplier sets its share
        n = len(self.box.criteria)
        flat = DomainParameters(alpha=(1.0 / n,) * n, lam=1.0, omega=0.0, eta=0.0, eps=self.box.eps_max)
        held = sum(space.tokens)
        domains = [
            (name, replace(flat, multiplier=share * held / own))
            for name, share, own in zip(space.domains, unit, space.tokens, strict=True)
        ]
        return replace(self.box, default=flat, domains=tuple(domains), target_tokens=tokens)


def parameters_in(found: Mapping[str, Any]) -> QuaDMixParameters:
    """The parameters that a search's artifact holds."""
    values = dict(found["parameters"])

    def theta(of: Mapping[str, Any]) -> DomainParameters:
        return DomainParameters(**{**of, "alpha": tuple(of["alpha"])})

    values["criteria"] = tuple(Criterion(**criterion) for criterion in values["criteria"])
    values["default"] = theta(values["default"])
    values["domains"] = tuple((name, theta(of)) for name, of in values["domains"])
    return QuaDMixParameters(**values)


def proxy_of(config: ProxyConfig, data: ProxyData, folder: str) -> Proxy:
    """The proxy of a recipe; what its workers read is written below ``folder``."""
    if config.kind == "ngram":
        return NgramProxy.of(data, config.ngram, folder)
    return LoopProxy.of(data, config.loop, folder)

"""Training as a step: sequences in; a model, its signals and its mixture log out.

The loop trains in a local folder of the step and resumes there after a kill. When it is done the model,
metrics and the last checkpoint become artifacts, ``signals`` and ``policy_log`` tables. Curves for
TensorBoard and wall times are no function of the inputs, so they go to the run's ``logs/`` instead.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from penstock.dataset import Counts, FileEntry, TableEntry
from penstock.digest import TableDigest, columns_of
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.documents import config_of
from penstock.pipelines.sequences import files_by_domain
from penstock.sources.base import InputFile
from penstock.step import Built, Context, Settings, Step
from penstock.training.config import RUNNING, TrainConfig, TrainData


class TrainStep(Step):
    """A language model trained on packed sequences."""

    revision = 2
    libraries = ("torch", "transformers")

    def __init__(
        self, name: str, sequences: str, tokenizer: str, config: TrainConfig, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.train, self.budget = name, (sequences, tokenizer), config, budget

    def config(self) -> dict[str, Any]:
        return {name: value for name, value in config_of(self.train).items() if name not in RUNNING}

    def inputs(self, settings: Settings) -> dict[str, str]:
        """The models to start from and to compare with: a path stays when its files change.

        Raises:
            ConfigError: there is no model where one is named.
        """
        found: dict[str, str] = {}
        for name, path in (("model", self.train.model.path), ("reference", self.train.reference_model)):
            if path is None:
                continue
            if not (Path(path) / "config.json").is_file():
                setting = "model.path" if name == "model" else "reference_model"
                raise ConfigError(
                    f"train.{setting}: {path} holds no config.json; give a local folder of a Hugging Face causal "
                    "language model with safetensors weights"
                )
            files = sorted([*Path(path).glob("*.json"), *Path(path).glob("*.safetensors")])
            found |= {f"{name}:{file.name}": settings.fingerprint(InputFile.local(file)) for file in files}
        return found

    def before(self, context: Context, local: Path) -> Path | None:
        """Folder with the checkpoint of an earlier model that this one goes on from; ``local`` has room for a copy."""
        return None

    def build(self, context: Context) -> Built:
        from penstock.training.loop import train

        sequences, tokenizer = (context.parents[name] for name in self.parents[:2])
        manifest = sequences.manifest
        paths = {
            split: {
                domain: [sequences.folder.join(p) for p in files]
                for domain, files in files_by_domain(manifest.tables, manifest.stats["domains"], split).items()
            }
            for split in ("train", "validation")
        }
        local = local_folder(context)
        tokenizer_file = local / "tokenizer.json"
        tokenizer_file.parent.mkdir(parents=True, exist_ok=True)
        tokenizer_file.write_bytes(tokenizer.folder.read_bytes(tokenizer.manifest.artifacts["tokenizer.json"].path))
        if not paths["train"]:
            raise DatasetError(
                f"{self.name}: {self.parents[0]} holds no training sequence: with sequences.tail: cut, a domain of "
                "fewer than sequences.length tokens gives none; shorten it, use tail: pad, or select more"
            )
        data = TrainData(
            train=paths["train"],
            validation=paths["validation"],
            tokenizer_file=tokenizer_file,
            fingerprint=sequences.digest,
            vocab_size=tokenizer.manifest.stats["vocabulary"],
            pad_id=tokenizer.manifest.stats["pad_id"],
            eos_id=tokenizer.manifest.stats["end_id"],
            before=self.before(context, local),
        )
        result = train(self.train, data, local / "run", progress=os.isatty(2))
        built = Built(
            counts=Counts(),
            stats={
                "parameters": result.parameters,
                "steps": result.steps,
                "tokens": result.tokens,
                "validation": dict(result.validation),
                "target_loss": result.target_loss,
                "final_loss": next((loss for loss in reversed(result.losses) if math.isfinite(loss)), None),
                "skipped_steps": result.skipped,
                "device": result.device,
                "model": asdict(self.train.model),
            },
        )
        keep_logs(context, local / "run")
        kept = {result.model, result.checkpoint, result.metrics}
        for file in sorted((local / "run").rglob("*")):
            if file.is_file() and kept.intersection((file, *file.parents)):
                relative = file.relative_to(local / "run").as_posix()
                built.artifacts[relative] = store(context, file, f"run/{relative}")
        for table in ("signals", "policy_log"):
            built.tables[table] = table_of(context, local / "run" / table, f"run/{table}")
        if not context.folder.is_local:
            shutil.rmtree(local)
        return built


def local_folder(context: Context) -> Path:
    """Where the loop may map files and write checkpoints: below the step, or a cache when that is in a store."""
    if context.folder.is_local:
        return Path(context.folder.join(context.prefix))
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "penstock" / "training" / context.key


def keep_logs(context: Context, run: Path) -> None:
    """Copy the curves and times to ``logs/<step>`` of the run's root."""
    root = context.folder.url.rstrip("/").rpartition("/")[0]
    logs = type(context.folder)(f"{root}/logs/{context.step.name}")
    for file in sorted([*(run / "tensorboard").rglob("*"), run / "timings.jsonl"]):
        if file.is_file():
            logs.write_bytes(file.relative_to(run).as_posix(), file.read_bytes())


def store(context: Context, file: Path, name: str) -> FileEntry:
    """The entry of a finished file, uploaded first when the run is in a store."""
    path = f"{context.prefix}/{name}"
    if context.folder.is_local:
        return context.adopt(context.folder.join(path))
    with context.folder.open_write(path) as sink, file.open("rb") as source:
        while block := source.read(8 << 20):
            sink.write(block)
    return FileEntry(path, sink.bytes, sink.sha256)


def table_of(context: Context, folder: Path, name: str) -> TableEntry:
    """The table that Parquet parts in a folder make together."""
    total, files, columns = TableDigest(), list[FileEntry](), dict[str, str]()
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        total = total.merge(TableDigest.of(table))
        columns = columns_of(table.schema)
        entry = store(context, file, f"{name}/{file.name}")
        files.append(FileEntry(entry.path, entry.bytes, entry.sha256, table.num_rows))
    return TableEntry(tuple(files), total.rows, total.hex(columns), columns)

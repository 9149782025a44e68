"""Every command and what does the same from Python: ``TWINS``.

An option reaches an argument of one of the functions. Where it does not, the table says why; and so for an argument
that no option reaches. A test holds the table to the commands and to the signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_HEARD = {name: "hears what the terminal shows" for name in ("reporter", "progress")}
_CHECK_RUN = "penstock.run.check"
_JOB = "penstock.pipelines.dataflow.dry_run"


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What a command is in Python.

    Attributes:
        functions: dotted names of public callables, in the order they are called; the last does the work.
        renamed: option or argument of the command to the argument of a function, where the names differ.
        settings: option to the key of a settings class that a function takes as a mapping.
        settings_of: dotted name of that class.
        other: option to the dotted name of a function that does what it asks for.
        terminal: option to the reason why Python needs none.
        python: argument of a function to the reason why no option sets it.
        defaults: option to the reason why it has another default than its argument.
    """

    functions: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    settings_of: str = ""
    other: Mapping[str, str] = field(default_factory=dict)
    terminal: Mapping[str, str] = field(default_factory=dict)
    python: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


_MODEL = {"--url": "model.url", "--model": "model.model", "--api-key-env": "model.api_key_env", "--path": "model.path"}
_BUDGET = {
    "--max-requests": "budget.max_requests",
    "--max-tokens": "budget.max_tokens",
    "--max-cost": "budget.max_cost",
}
_JSON = {"--json": "the result is an object"}

TWINS: Mapping[str, Twin] = {
    "run": Twin(
        functions=("penstock.flows.run",),
        renamed={"--set": "overrides", "--runner-option": "runner_options", "--plain": "flow"},
        other={"--dry-run": _CHECK_RUN, "--job-file": _JOB},
        python=_HEARD,
        defaults={"--plain": "says the opposite: a script that wants tasks of Prefect's asks for them"},
    ),
    "build": Twin(
        functions=("penstock.flows.build",),
        renamed={"--set": "overrides", "--runner-option": "runner_options"},
        other={"--dry-run": _CHECK_RUN, "--job-file": _JOB},
        python=_HEARD | {"flow": "the command shows its own progress"},
    ),
    "train": Twin(
        functions=("penstock.flows.train",),
        renamed={"--set": "overrides"},
        other={"--dry-run": _CHECK_RUN},
        python=_HEARD | {"flow": "the command shows its own progress"},
    ),
    "refresh": Twin(
        functions=("penstock.flows.refresh",),
        renamed={"--set": "overrides"},
        other={"--dry-run": "penstock.refreshing.loop.check"},
        python=_HEARD | {"flow": "the command shows its own progress"},
    ),
    "init": Twin(functions=("penstock.init.write",)),
    "doctor": Twin(functions=("penstock.doctor.examine",), terminal=_JSON),
    "inspect": Twin(
        functions=("penstock.inspect.inspect_folder",),
        renamed={"folder": "url"},
        python={"console": "where it is printed"},
    ),
    "view": Twin(
        functions=("penstock.view.serve_view",),
        renamed={"--no-browser": "browser"},
        defaults={"--no-browser": "says the opposite"},
        python=_HEARD | {"say": "hears what the terminal shows", "started": "is given the server, to stop it"},
    ),
    "trace": Twin(functions=("penstock.trace",), terminal=_JSON),
    "report": Twin(
        functions=("penstock.recipe.Recipe.load", "penstock.run.report_again"),
        renamed={"recipe": "path", "--set": "overrides"},
        python={"recipe": "what Recipe.load gives"},
    ),
    "diff": Twin(functions=("penstock.diff.diff",), terminal=_JSON, python=_HEARD),
    "push": Twin(functions=("penstock.flows.push",), other={"--dry-run": "penstock.push.push"}, python=_HEARD),
    "export": Twin(functions=("penstock.export.export_sequences",), renamed={"sequences": "source"}),
    "quality train": Twin(
        functions=("penstock.pipelines.criteria.train_quality",), renamed={"--rows": "rows_per_side"}
    ),
    "generate": Twin(
        functions=("penstock.flows.generate",),
        renamed={"--set": "overrides"},
        settings_of="penstock.generators.recipe.GenerateConfig",
        settings={
            "task": "prompt.task",
            "--count": "voyage.count",
            "--family": "procedural.families",
            "--shape": "prompt.shape",
            "--prefix": "prefix.start",
            "--texts": "prefix.files",
            "--baseline": "baseline",
            "--prices": "prices",
            **_MODEL,
            **_BUDGET,
        },
        other={"--dry-run": "penstock.generation.check"},
        python=_HEARD | {"settings": "the options for single settings", "flow": "the command shows its own progress"},
    ),
    "transform": Twin(
        functions=("penstock.flows.transform",),
        renamed={"--set": "overrides"},
        settings_of="penstock.generators.transforms.config.TransformConfig",
        settings={
            "--kinds": "kinds",
            "--per-problem": "per_problem",
            "--rules": "rules",
            "--judge": "judge",
            "--solve": "solve.samples",
            "--band": "solve.band",
            "--embedding-band": "embedding_band",
            "--alone": "alone",
            **_MODEL,
            **_BUDGET,
        },
        other={"--dry-run": "penstock.transformation.check", "--export": "penstock.generators.exports.export_groups"},
        python=_HEARD | {"settings": "the options for single settings", "flow": "the command shows its own progress"},
    ),
    "select": Twin(
        functions=("penstock.flows.select",),
        renamed={"--set": "overrides"},
        other={"--dry-run": "penstock.flows.choosing.select_steps"},
        python=_HEARD,
    ),
    "score": Twin(
        functions=("penstock.flows.score",),
        renamed={"--set": "overrides"},
        other={"--dry-run": "penstock.flows.choosing.score_steps"},
        python=_HEARD,
    ),
    "screen calibrate": Twin(
        functions=("penstock.flows.calibrate",),
        other={"--dry-run": "penstock.flows.choosing.calibrate_steps"},
        python=_HEARD,
    ),
    "screen apply": Twin(
        functions=("penstock.flows.screen",),
        other={"--dry-run": "penstock.scoring.screen_step.apply_steps"},
        python=_HEARD,
    ),
    "bytes": Twin(
        functions=(
            "penstock.tokenization.bytelevel.ByteModel.load",
            "penstock.tokenization.bytelevel.Sampling",
            "penstock.tokenization.bytelevel.InfillLayout",
            "penstock.tokenization.bytelevel.InfillLayout.prompt",
            "penstock.tokenization.bytelevel.tables.show_bytes",
        ),
        renamed={"model": "path", "--sample": "samples", "--layout": "template"},
        settings_of="penstock.tokenization.bytelevel.ByteModel",
        settings={"--canonical": "canonical"},
        python={
            "options": "those of ByteModel",
            "settings": "the Sampling",
            "prefix": "the prompt",
            "special": "on where there is a layout",
            "console": "where it is printed",
            "model": "what ByteModel.load gives",
        },
        defaults={"--max-bytes": "a line of a terminal"},
    ),
    "models serve": Twin(
        functions=("penstock.generators.VLLMServer",),
        python={
            "arguments": "as pairs; the command passes words on as they stand",
            "more": "options that the command does not know",
            "log": "hears what the server prints",
        },
        defaults={"--port": "an address that people remember; a program takes a free one"},
    ),
    "cache stats": Twin(
        functions=("penstock.generators.AnswerStore", "penstock.generators.pruning.store_stats"),
        renamed={"--store": "path"},
        terminal=_JSON,
        python={"store": "the AnswerStore"},
    ),
    "cache prune": Twin(
        functions=("penstock.generators.AnswerStore", "penstock.generators.pruning.prune"),
        renamed={"--store": "path", "--to-mb": "to_bytes"},
        python={"store": "the AnswerStore"},
    ),
    "serve": Twin(
        functions=("penstock.flows.Deployments.load", "penstock.flows.serving.serve"),
        other={"--example": "penstock.flows.deployments.EXAMPLE"},
        terminal={"--dry-run": "Deployments.load checks all of it"},
        python={"deployments": "what Deployments.load gives", "say": "hears what the terminal shows"},
    ),
    "tokenizer train": Twin(functions=("penstock.flows.train_tokenizer",)),
    "tokenizer extend": Twin(functions=("penstock.flows.extend_tokenizer",)),
    "tokenizer prune": Twin(functions=("penstock.flows.prune_tokenizer",)),
    "tokenizer compare": Twin(functions=("penstock.flows.compare_tokenizers",), python=_HEARD),
    "tokenizer infer-mixture": Twin(functions=("penstock.flows.infer_tokenizer_mixture",), python=_HEARD),
    "tokenizer hypernet": Twin(
        functions=("penstock.tokenization.building.hypernet_config", "penstock.tokenization.dynamic.train_hypernet"),
        renamed={"--set": "overrides"},
        settings_of="penstock.tokenization.dynamic.HypernetConfig",
        settings={
            "model": "model",
            "data": "texts",
            "--out": "output",
            "--steps": "steps",
            "--identity-steps": "identity_steps",
            "--sample-mb": "text_bytes",
            "--seed": "seed",
            "--device": "device",
        },
        python=_HEARD | {"settings": "the options for single settings", "config": "what hypernet_config gives"},
    ),
    "recipe show": Twin(
        functions=("penstock.recipe.Recipe.load", "penstock.recipe.Recipe.to_yaml"),
        renamed={"recipe": "path", "--set": "overrides"},
    ),
    "recipe schema": Twin(functions=("penstock.recipe_schema.recipe_schema",)),
}

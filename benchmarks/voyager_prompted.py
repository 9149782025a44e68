"""The six tasks of Voyager's paper with any endpoint: our figures beside the published ones.

The published ones are of GPT-4o-mini with 500 items (arXiv 2512.12072 v2, table 1): lexical and cosine distance, Vendi
score, quality by a jury (at most 25, of the last two tasks 15) and calls. The paper's embedder is closed and its kernel
not given, so only ratios within a table compare: each Vendi score is shown with what it is of that of ``default``.

The wording of the tasks is ours. Calls count everything an arm asked: a first sample, refinements, corrections.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from benchmarks.harness import BenchmarkError, Options, Result, Row
from benchmarks.voyager_arms import lexical, minilm, off_diagonal, static
from penstock.diversity.vendi_score import vendi
from penstock.generators.answers import AnswerStore
from penstock.generators.base import LanguageModel
from penstock.generators.config import GeneratorConfig
from penstock.generators.explorers.baselines_model import BASELINES, baseline, subset
from penstock.generators.explorers.prompt import PromptExplorer, PromptSettings
from penstock.generators.gates.config import GatesConfig
from penstock.generators.gates.jury import Jury, read_rubric
from penstock.generators.session import ModelSession
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.records import Decision
from penstock.generators.voyager.settings import VoyagerSettings

PROMPTED = (*BASELINES, "voyager")
TASKS: Mapping[str, PromptSettings] = {
    "sports": PromptSettings(task="Write a sentence about sports."),
    "politics": PromptSettings(task="Write a short conversation between two people about politics."),
    "poem": PromptSettings(task="Write a short poem."),
    "movie": PromptSettings(task="Write the plot of a movie in one paragraph."),
    "math": PromptSettings(task="Write a grade-school math word problem.", shape="problems"),
    "logic": PromptSettings(task="Write a grade-school logic puzzle.", shape="problems"),
}
COLUMNS = ("lexical", "cosine", "vendi", "quality", "calls")
PAPER: Mapping[str, Mapping[str, tuple[float, float, float, float, int]]] = {
    "sports": {
        "default": (0.67, 0.21, 2.99, 21.70, 50),
        "temperature": (0.70, 0.22, 3.23, 21.71, 50),
        "diverse": (0.78, 0.41, 7.87, 23.10, 50),
        "history": (0.79, 0.33, 6.00, 22.15, 50),
        "hierarchical": (0.85, 0.54, 15.07, 22.85, 550),
        "subset_select": (0.81, 0.41, 7.77, 22.22, 500),
        "voyager": (0.87, 0.55, 24.13, 22.26, 443),
    },
    "politics": {
        "default": (0.72, 0.25, 4.59, 22.97, 50),
        "temperature": (0.74, 0.27, 5.16, 23.03, 50),
        "diverse": (0.73, 0.16, 3.30, 23.75, 50),
        "history": (0.70, 0.26, 4.24, 22.97, 50),
        "hierarchical": (0.77, 0.38, 8.45, 23.32, 550),
        "subset_select": (0.73, 0.26, 4.85, 23.13, 500),
        "voyager": (0.82, 0.44, 15.04, 23.92, 426),
    },
    "poem": {
        "default": (0.76, 0.15, 3.00, 22.52, 50),
        "temperature": (0.78, 0.16, 3.22, 22.65, 50),
        "diverse": (0.78, 0.14, 2.76, 22.79, 50),
        "history": (0.71, 0.11, 2.30, 22.45, 50),
        "hierarchical": (0.82, 0.30, 5.68, 22.56, 550),
        "subset_select": (0.76, 0.16, 3.08, 22.52, 500),
        "voyager": (0.86, 0.30, 7.31, 24.51, 615),
    },
    "movie": {
        "default": (0.80, 0.21, 4.00, 23.04, 50),
        "temperature": (0.83, 0.26, 5.52, 23.08, 50),
        "diverse": (0.81, 0.25, 5.28, 23.46, 50),
        "history": (0.78, 0.22, 4.28, 23.15, 50),
        "hierarchical": (0.84, 0.32, 7.66, 22.99, 550),
        "subset_select": (0.81, 0.23, 4.57, 23.03, 500),
        "voyager": (0.84, 0.34, 8.30, 22.96, 695),
    },
    "math": {
        "default": (0.54, 0.20, 3.04, 14.99, 50),
        "temperature": (0.56, 0.22, 3.56, 15.00, 50),
        "diverse": (0.47, 0.07, 1.65, 15.00, 50),
        "history": (0.30, 0.24, 3.13, 14.83, 50),
        "hierarchical": (0.68, 0.40, 8.72, 15.00, 550),
        "subset_select": (0.57, 0.22, 3.48, 14.98, 500),
        "voyager": (0.81, 0.48, 18.78, 14.77, 399),
    },
    "logic": {
        "default": (0.59, 0.20, 3.31, 14.83, 50),
        "temperature": (0.63, 0.25, 4.47, 14.80, 50),
        "diverse": (0.62, 0.15, 2.83, 14.92, 50),
        "history": (0.35, 0.27, 3.98, 14.99, 50),
        "hierarchical": (0.65, 0.33, 7.02, 14.88, 550),
        "subset_select": (0.62, 0.24, 4.25, 14.80, 500),
        "voyager": (0.79, 0.41, 13.26, 14.64, 393),
    },
}


def prompted(options: Options) -> Result:
    """The table of all tasks and arms that were asked for.

    Raises:
        BenchmarkError: no model is named.
    """
    more = options.more
    if more["model"] is None:
        raise BenchmarkError("--model: got none beside --url, allowed the model's name on the server; name it")
    server = GeneratorConfig(url=more["url"], model=more["model"], api_key_env=more["api_key_env"]).resolve()
    server.setup()
    judge = None
    if more["judge"] is not None:
        judge = GeneratorConfig(url=more["url"], model=more["judge"], api_key_env=more["api_key_env"]).resolve()
    store = None if more["store"] is None else AnswerStore(path=more["store"])
    count = 20 if options.quick else more["count"]
    rows: list[Row] = []
    for task in more["tasks"]:
        ours = {arm: arm_figures(task, arm, count, server, judge, store) for arm in more["arms"]}
        rows += rows_of(task, ours)
    return Result(rows=rows, versions=harness.versions("sentence-transformers", "numpy"))


def arm_figures(
    task: str, arm: str, count: int, server: LanguageModel, judge: LanguageModel | None, store: AnswerStore | None
) -> dict[str, Any]:
    """The figures of one arm on one task."""
    session = ModelSession(server, store=store)
    written = TASKS[task]
    settings = VoyagerSettings(count=count)
    if arm == "voyager":
        root, how = PromptExplorer.root(session, written, seed=0), settings
    else:
        root, how = baseline(arm, session, written, seed=0, settings=settings)
    gates = GatesConfig(languages=("en",)).gates(task=written.task, embedder=static(), seed=0, told=written.told)
    done = asyncio.run(explore([root], how, embedder=static(), gates=gates, seed=0))
    accepted: list[Decision] = list(done.accepted)
    if arm == "subset_select":
        accepted = [accepted[row] for row in subset([one.vector for one in accepted], count)]
    if not accepted:
        return {"items": 0, "calls": session.meter.requests, "why": done.detail}
    texts = [one.item.text for one in accepted]
    vectors = minilm().embed(texts).astype("f8")
    found = {
        "items": len(texts),
        "lexical": lexical(texts),
        "cosine": float((1.0 - off_diagonal(vectors @ vectors.T)).mean()) if len(texts) > 1 else 0.0,
        "vendi": vendi(vectors).value,
        "calls": session.meter.requests,
        "why": done.detail if not done.complete else "",
    }
    return found | ({} if judge is None else {"quality": quality(written, accepted, ModelSession(judge, store=store))})


def quality(task: PromptSettings, accepted: list[Decision], judge: LanguageModel) -> float | None:
    """Mean total of the jury's scores; None where it gave none."""
    rubric = read_rubric("reasoning" if task.shape == "problems" else "creative")
    jury = Jury(models=(judge,), task=task.task, rubric=rubric, threshold=0.0)
    findings = asyncio.run(jury.examine([one.item for one in accepted]))
    totals = [json.loads(one.verdicts[0].detail)["mean"] for one in findings if one.reason is None]
    return sum(totals) / len(totals) if totals else None


def rows_of(task: str, ours: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row of ours for each arm, and below it the paper's."""
    rows: list[Row] = []
    base = ours.get("default", {}).get("vendi")
    for arm, found in ours.items():
        published = dict(zip(COLUMNS, PAPER[task][arm], strict=True))
        told = {"items": found["items"], **{name: found.get(name) for name in COLUMNS}}
        ratio = found["vendi"] / base if base and "vendi" in found else None
        rows.append({"what": f"{task}, {arm}", **told, "vendi / default": ratio, "why not all": found["why"]})
        ratio = published["vendi"] / PAPER[task]["default"][COLUMNS.index("vendi")]
        rows.append({"what": f"{task}, {arm}, paper", "items": 500, **published, "vendi / default": ratio})
    return rows

"""``penstock refresh``: one round of the closed loop a call.

root/
  run.json                     whose folder this is
  rounds.json                  the record of all rounds (``ledger``), and which one is current
  round-0001/ round-0002/ …    a run's folder each: datasets, model, timings; from the second on also the comparison
  report.html                  of the last round, with all rounds side by side

A round is made when input files or settings differ from those of the current round, and from those of every round that
was rejected since. It builds on the last round's folder (``--since``), so what did not change is taken over, and the
tokenizer is the first round's. Its model goes on from the accepted model and is taken or not by ``verdict``; a rejected
one is kept in its folder and nothing is made from it.

``rounds.json`` is the only commit: a round that was killed, anywhere, is ended by the next call in the same bytes. What
an accepted round sends elsewhere is sent after that commit, and by the next call if this one was killed before.

Price: that of the build, less what is taken over; of ``refresh.train.steps`` steps; of two forward passes of the
validation sequences of both datasets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.card import SPLITS
from penstock.dataset import Dataset, Manifest, hash_json, read_manifest
from penstock.errors import ConfigError
from penstock.lock import FolderLock
from penstock.ownership import NAME, claim
from penstock.pipelines.generate import GENERATED
from penstock.pipelines.passes import Engine
from penstock.pipelines.plan import plan
from penstock.recipe import Recipe
from penstock.refreshing.ledger import Files, HeldOut, Ledger, Made, Round, folder_of
from penstock.refreshing.plan import COMPARISON, DATASET, MODEL, SELECTION, round_steps, settings_of
from penstock.refreshing.verdict import verdict
from penstock.run import Fingerprints, building, in_order, root_of
from penstock.step import Check, Reporter, Settings, Silent, StepResult, check_steps
from penstock.storage import Folder

# of a recipe, what decides no data and no model; of its section refresh as well
_ASIDE = {"name", "output", "budgets"}
_ASIDE_OF_REFRESH = ("when", "push_to")
_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Refreshed:
    """What a call did.

    Attributes:
        made: the round; None when there was nothing to make one of.
        why: what made it, or why there was none.
        steps: of the round, in order.
        report: path or URL.
    """

    root: Folder
    ledger: Ledger
    made: Round | None
    why: str
    steps: tuple[StepResult, ...]
    report: str | None
    seconds: float


@dataclass(frozen=True)
class Due:
    """Whether there is a round to make, and of what.

    Attributes:
        number: of the round.
        state: hash of what decides its data.
        why: what makes it, or why there is none.
    """

    due: bool
    number: int
    state: str
    why: str


def owner(recipe: Recipe) -> str:
    """How a folder of rounds is marked: not as a run's, which may write neither beside the rounds nor into one."""
    return f"{recipe.name} (rounds)"


def check(
    recipe: Recipe, *, out: str | None = None, split_bytes: int = 32 << 20
) -> tuple[Due, Ledger, Folder, list[Check]]:
    """What the next call would do, without doing it: the ledger, the round's folder and what becomes of its steps.

    Raises:
        PenstockError: the recipe, an input or the folder is not acceptable.
    """
    root = root_of(recipe, out)
    claim(root, owner(recipe), write=False)
    ledger = Ledger.load(root)
    prints = Fingerprints.load(root)
    due = _due(recipe, ledger, root, _settings(recipe, root, ledger, prints, split_bytes))
    folder = root / folder_of(due.number)
    steps = round_steps(recipe, due.number, _base(root, ledger))
    checks = check_steps(steps, folder, _settings(recipe, root, ledger, prints, split_bytes)) if due.due else []
    return due, ledger, folder, checks


def refresh(
    recipe: Recipe,
    *,
    out: str | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    reporter: Reporter | None = None,
    split_bytes: int = 32 << 20,
    flow: bool = False,
    report: bool = True,
) -> Refreshed:
    """Make the next round, if there is something to make it of; go on with one that was stopped.

    Args:
        out: folder or URL of the rounds; by default the recipe's.
        workers, engine, split_bytes, flow: as of ``penstock.run.run``.
        report: write ``report.html`` at the end.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    settings_of(recipe)
    started, began = time.perf_counter(), datetime.now(UTC)
    reporter = reporter or Silent()
    root = root_of(recipe, out)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        claim(root, owner(recipe), write=True)
        ledger = _send(root, Ledger.load(root), reporter)
        prints = Fingerprints.load(root)
        settings = _settings(recipe, root, ledger, prints, split_bytes)
        due = _due(recipe, ledger, root, settings)
        prints.save()
        if not due.due:
            reporter.note(due.why)
            written = _report(recipe, root, ledger, (), began) if report else None
            return Refreshed(root, ledger, None, due.why, (), written, time.perf_counter() - started)
        reporter.note(f"round {due.number}: {due.why}")
        folder, base = root / folder_of(due.number), _base(root, ledger)
        claim(folder, f"{recipe.name} (round {due.number})", write=True)
        folder.write_bytes("recipe.yaml", recipe.to_yaml().encode())
        steps = round_steps(recipe, due.number, base)
        together = building(steps, folder, settings, workers=workers, engine=engine, reporter=reporter)
        checks, build = stack.enter_context(together)

        def do(step: Any) -> StepResult:
            done = build(step)
            if step.name == _TOKENIZER and base is not None:
                _check_tokenizer(base, done.manifest)
            return done

        results = in_order(f"{recipe.name}, round {due.number}", checks, do, reporter, flow=flow)
        prints.save()
        made = _round(recipe, root, folder, ledger, due)
        ledger = ledger.with_round(made)
        ledger.save(root)
        reporter.note(f"round {made.number}: {'accepted' if made.accepted else 'not accepted'}, {made.reason}")
        written = _report(recipe, root, ledger, results, began) if report else None
        ledger = _send(root, ledger, reporter)
    seconds = time.perf_counter() - started
    return Refreshed(root, ledger, ledger.last, due.why, results, written, seconds)


def _report(recipe: Recipe, root: Folder, ledger: Ledger, results: Sequence[StepResult], began: datetime) -> str | None:
    from penstock.report.refresh import write_report

    return write_report(recipe, root, ledger, [r.step.name for r in results if not r.skipped], began)


def _settings(recipe: Recipe, root: Folder, ledger: Ledger, prints: Fingerprints, split_bytes: int) -> Settings:
    # the newest data, where its folder is still there
    folders = [root / one.folder for one in (ledger.last, ledger.current) if one is not None]
    since = next((folder for folder in folders if folder.exists(NAME)), None)
    return Settings(recipe.seed, recipe.dropped, split_bytes, prints, since, recipe.max_dropped)


def _base(root: Folder, ledger: Ledger) -> Folder | None:
    """The folder of the accepted round, which the next one goes on from."""
    return None if ledger.current is None else root / ledger.current.folder


# ── what is due ──────────────────────────────────────────────────────────────────────────────────


def _due(recipe: Recipe, ledger: Ledger, root: Folder, settings: Settings) -> Due:
    refresh, number = settings_of(recipe), len(ledger.rounds) + 1
    said = recipe.model_dump(mode="json", exclude=_ASIDE, exclude_defaults=True)
    of_refresh = {name: value for name, value in said.pop("refresh", {}).items() if name not in _ASIDE_OF_REFRESH}
    inputs = {step.name: step.inputs(settings) for step in plan(recipe)}
    state = hash_json({"settings": said, "refresh": of_refresh, "inputs": inputs})
    current = ledger.current
    if current is None:
        return Due(True, number, state, "the first round")
    if not ledger.tried(state):
        return Due(True, number, state, _news(root, ledger, inputs["documents"]))
    if refresh.when == "signals" and ledger.read_by_none():
        return Due(True, number, state, f"signals of round {current.number}, which no round has read")
    last = ledger.last
    assert last is not None
    rejected = "" if last.accepted else f"; round {last.number} was made of it and not accepted"
    unread = (
        f"; the signals of round {current.number} alone make one with refresh.when: signals"
        if refresh.when == "data" and ledger.read_by_none()
        else ""
    )
    return Due(False, number, state, f"nothing new since round {last.number}, no round is made{rejected}{unread}")


def _news(root: Folder, ledger: Ledger, inputs: Mapping[str, str]) -> str:
    """In words, what differs from the last round."""
    assert ledger.last is not None
    before = read_manifest(root / ledger.last.folder / "documents")
    if before is None:
        return f"files or settings changed since round {ledger.last.number}, whose documents are gone"
    files = compared_files(before.key_parts["inputs"], inputs)
    parts = [
        f"{n:,} {what}" for n, what in ((files.new, "new"), (files.changed, "changed"), (files.removed, "removed")) if n
    ]
    if not parts:
        return f"settings or other inputs than documents changed since round {ledger.last.number}"
    return f"files since round {ledger.last.number}: {', '.join(parts)}"


def compared_files(before: Mapping[str, str], after: Mapping[str, str]) -> Files:
    """Inputs by name and fingerprint, against those of the round before."""
    return Files(
        total=len(after),
        new=len(after.keys() - before.keys()),
        changed=sum(before[name] != after[name] for name in after.keys() & before.keys()),
        removed=len(before.keys() - after.keys()),
    )


# ── what came of it ──────────────────────────────────────────────────────────────────────────────


def _check_tokenizer(base: Folder, manifest: Manifest) -> None:
    """Refuse another tokenizer than the accepted model's, whose embeddings it would misread."""
    if Dataset(base / _TOKENIZER).digest != manifest.digest:
        raise ConfigError(
            "refresh: the settings of the tokenizer, or the version of the library that makes it, differ from those of "
            f"the accepted round ({base.url}); put them back, or begin anew with another --out"
        )


def _round(recipe: Recipe, root: Folder, folder: Folder, ledger: Ledger, due: Due) -> Round:
    """The record of a round whose steps are all committed."""
    refresh, current = settings_of(recipe), ledger.current
    manifests = {
        step.name: Dataset(folder / step.name).manifest for step in round_steps(recipe, due.number, _base(root, ledger))
    }
    inputs = manifests["documents"].key_parts["inputs"]
    last = None if ledger.last is None else read_manifest(root / ledger.last.folder / "documents")
    losses: tuple[HeldOut, ...] = ()
    accepted, reason = True, "the first round: there is no older model"
    if current is not None:
        losses = tuple(_held_out(split, of) for split, of in manifests[COMPARISON].stats["compared"].items())
        accepted, reason = verdict(losses, refresh.accept)
    steps = int(manifests[MODEL].stats["steps"])
    names = [DATASET, MODEL, SELECTION, _TOKENIZER, *([COMPARISON] if current is not None else [])]
    return Round(
        number=due.number,
        base=None if current is None else current.number,
        state=due.state,
        why=due.why,
        files=compared_files({} if last is None else last.key_parts["inputs"], inputs),
        rows=sum(table.rows for name, table in manifests[DATASET].tables.items() if name in SPLITS),
        tokens=sum(of["tokens"] for of in manifests[SELECTION].stats["domains"].get("train", {}).values()),
        first_step=0 if current is None else current.last_step,
        last_step=steps,
        accepted=accepted,
        reason=reason,
        made=_made(folder / GENERATED) if GENERATED in manifests else None,
        losses=losses,
        digests={name: manifests[name].digest for name in names},
        push_to=refresh.push_to if accepted else None,
    )


def _held_out(split: str, of: Mapping[str, Any]) -> HeldOut:
    numbers: dict[str, Any] = {name: float(value) if isinstance(value, str) else value for name, value in of.items()}
    return HeldOut(split="new" if split == "new" else "old", **numbers)


def _made(folder: Folder) -> Made:
    """What a voyage made."""
    dataset = Dataset(folder)
    facts, gains = dataset.manifest.stats["voyage"], list[float]()
    for table in ("problems", "documents"):
        if table in dataset.manifest.tables:
            told = [json.loads(text)["gain"] for text in dataset.read(table, ["provenance"])["provenance"].to_pylist()]
            gains += [gain for gain in told if gain is not None]
    return Made(
        wanted=facts["wanted"],
        accepted=facts["accepted"],
        gain=round(sum(gains) / len(gains), 6) if gains else None,
        threshold=facts["threshold"],
        reason=facts["reason"],
    )


def _send(root: Folder, ledger: Ledger, reporter: Reporter) -> Ledger:
    """Send the current round's dataset where it is to go, unless that was done."""
    current = ledger.current
    if current is None or current.push_to is None or current.sent:
        return ledger
    from penstock.push import push

    sent = push((root / current.folder / DATASET).url, current.push_to)
    reporter.note(f"round {current.number}: sent to {sent.dest}")
    ledger = ledger.sent()
    ledger.save(root)
    return ledger

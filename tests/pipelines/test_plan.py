"""From a recipe to steps: their order, their parents, what each is told, and what their keys know."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from penstock.dataset import Dataset, hash_json
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines import deduplicate, sequences
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.plan import needed, parameters_of, plan, row_work, sources_of
from penstock.recipe import Recipe
from penstock.selectors.quadmix import Criterion, DomainParameters
from penstock.step import Settings, Silent, check_step, run_step
from penstock.storage import Folder

SMALL = "name: small\nsource: {files: [a.jsonl]}\nselect: {criteria: {language: {}}}\n"


def parse(text, *overrides):
    return Recipe.parse(text, overrides)


# ── the steps ────────────────────────────────────────────────────────────────────────────────────


def test_the_smallest_recipe_ends_with_a_dataset():
    steps = plan(parse(SMALL))
    assert [(s.name, s.parents) for s in steps] == [
        ("documents", ()),
        ("deduplicated", ("documents",)),
        ("tokenizer", ("deduplicated",)),
        ("scored", ("deduplicated", "tokenizer")),
        ("selection-1", ("scored",)),
        ("dataset-1", ("scored", "selection-1")),
    ]


def test_what_is_made_stands_before_the_documents_and_joins_them():
    text = SMALL + "generate: {compare: [default]}\ntransform: {}\n"
    steps = {s.name: s for s in plan(parse(text))}
    assert list(steps)[:5] == ["embedder", "generated", "generated-default", "transformed", "documents"]
    assert steps["generated"].parents == steps["generated-default"].parents == ("embedder",)
    assert steps["transformed"].parents == ("generated",)
    assert steps["documents"].parents == ("transformed",)
    assert {s.name: s.parents for s in plan(parse(SMALL + "generate: {}\n"))}["documents"] == ("generated",)


def test_one_embedder_serves_what_is_made_and_the_documents():
    text = SMALL + "embed: {}\ngroup: {}\ngenerate: {}\ntransform: {embedding_band: [0.2, 0.99]}\n"
    steps = plan(parse(text))
    assert Counter(s.name for s in steps)["embedder"] == 1
    parents = {s.name: s.parents for s in steps}
    assert parents["transformed"] == ("generated", "embedder")
    assert "embedder" in parents["embedded"]


@pytest.mark.parametrize(
    "text",
    [
        "transform: {}\n",
        "transform: {}\ngenerate: {prompt: {task: Write.}, model: {url: 'http://h/v1', model: m}}\n",
    ],
)
def test_variants_without_problems_are_refused(text):
    with pytest.raises(ConfigError, match="transform changes problems that generate makes"):
        parse(SMALL + text)


def test_rounds_feed_the_signals_of_one_into_the_selection_of_the_next():
    text = SMALL + "quality: {positive: {domains: [a]}}\ntrain: {steps: 5, warmup_steps: 1}\nrounds: 3\n"
    parents = {s.name: s.parents for s in plan(parse(text))}
    assert list(parents)[3:5] == ["quality", "scored"]
    assert parents["scored"] == ("deduplicated", "tokenizer", "quality")
    assert parents["selection-1"] == ("scored",)
    for number in (2, 3):
        assert parents[f"selection-{number}"] == ("scored", f"model-{number - 1}")
        assert parents[f"sequences-{number}"] == ("scored", f"selection-{number}")
        assert parents[f"model-{number}"] == (f"sequences-{number}", "tokenizer")
    seen = set()
    for name, of in parents.items():
        assert set(of) <= seen, f"{name} stands before a parent"
        seen.add(name)


LEARNED = SMALL + "generate: {}\ntransform: {}\ntrain: {steps: 5, warmup_steps: 1}\ngroup_rl: {}\n"


def test_learning_from_groups_comes_last_from_the_variants_and_the_first_round_s_model():
    steps = plan(parse(LEARNED, "rounds=2", "budgets.policy=9"))
    assert (steps[-1].name, steps[-1].parents, steps[-1].budget) == ("policy-ta-grpo", ("transformed", "model-1"), 9)
    # the coin that holds questions out is that which splits the documents
    assign = next(s for s in steps if s.name == "deduplicated").assign
    assert steps[-1].split_seed == assign.seed
    assert steps[-1].group_rl.seed not in (assign.seed, next(s for s in steps if s.name == "model-1").train.seed, 0)


@pytest.mark.parametrize(
    ("overrides", "name", "parents"),
    [
        (["group_rl.objective=nft"], "policy-nft", ("transformed", "model-1")),
        (["group_rl.objective=grpo", "transform=null"], "policy-grpo", ("generated", "model-1")),
        (["group_rl.model=/models/a"], "policy-ta-grpo", ("transformed",)),
        (["group_rl.problems=groups.parquet"], "policy-ta-grpo", ("model-1",)),
        (["group_rl.problems=groups.parquet", "group_rl.model=/models/a"], "policy-ta-grpo", ()),
    ],
)
def test_a_model_and_problems_of_others_take_the_place_of_the_run_s_own(overrides, name, parents):
    step = plan(parse(LEARNED, *overrides))[-1]
    assert (step.name, step.parents) == (name, parents)
    assert [s.name for s in needed(plan(parse(LEARNED, *overrides)), [name])][-1] == name


def test_all_rounds_toss_the_same_coins_but_no_two_purposes_share_a_seed():
    text = SMALL + "quality: {positive: {domains: [a]}}\ntrain: {steps: 5, warmup_steps: 1}\nrounds: 2\nseed: 9\n"
    steps = {s.name: s for s in plan(parse(text))}
    assert steps["selection-1"].seed == steps["selection-2"].seed
    assert steps["sequences-1"].seed == steps["sequences-2"].seed
    seeds = [
        steps["deduplicated"].assign.seed,
        steps["tokenizer"].sampling.seed,
        steps["quality"].classifier.seed,
        steps["selection-1"].seed,
        steps["sequences-1"].seed,
        steps["model-1"].train.seed,
    ]
    assert len(set(seeds)) == len(seeds)
    other = {s.name: s for s in plan(parse(text, "seed=10"))}
    assert other["selection-1"].seed != steps["selection-1"].seed


def test_the_classifier_holds_out_what_the_corpus_holds_out():
    steps = {s.name: s for s in plan(parse(SMALL + "quality: {positive: {domains: [a]}}\n"))}
    assert steps["quality"].works[-1] == steps["deduplicated"].assign
    assert [w.name for w in steps["quality"].works] == ["normalise", "not_empty", "assign_split"]


def test_files_take_the_place_of_the_environment_and_problems_join_either():
    text = "name: s\nsource: {files: [a.jsonl], environment: {}, procedural: {}}\nselect: {criteria: {language: {}}}\n"
    assert [s.name for s in sources_of(parse(text))] == ["files", "procedural"]
    assert [s.name for s in sources_of(parse(text, "source.files=[]"))] == ["environment", "procedural"]
    assert [s.name for s in sources_of(parse(text, "source.hub=org/name"))] == ["files", "hub", "procedural"]
    (hub, _) = sources_of(parse(text, "source.files=[]", "source.hub=[org/name, {dataset: b, split: test}]"))
    assert [(entry.dataset, entry.split) for entry in hub.entries] == [("org/name", "train"), ("b", "test")]
    limited = sources_of(parse(text, "source.hub=b", "source.on_bad_file=drop", "source.max_document_mb=2"))
    assert [(s.on_bad_file, s.max_document_bytes) for s in limited[:2]] == [("drop", 2_000_000)] * 2


def test_two_sources_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"source: two are called 'files'; give one of them another name"):
        plan(parse(SMALL, "source.procedural={name: files}"))


def test_filters_stand_in_order_and_null_switches_one_off():
    assert [w.name for w in row_work(parse(SMALL))] == [
        "normalise",
        "not_empty",
        "gopher_quality",
        "gopher_repetition",
        "language_id",
    ]
    works = row_work(parse(SMALL, "filters={gopher_quality: null, language: {languages: [en]}, exempt: [code]}"))
    assert [w.name for w in works] == ["normalise", "not_empty", "gopher_repetition", "language_id", "language"]
    mended = parse(SMALL + "quality: {positive: {domains: [a]}}\n", "filters.repair={fixes: [encoding, html]}")
    assert [w.name for w in row_work(mended)][:3] == ["repair", "normalise", "not_empty"]
    quality = {s.name: s for s in plan(mended)}["quality"]
    assert [w.name for w in quality.works] == ["repair", "normalise", "not_empty", "assign_split"]
    # cleaning and language identification are no filters: no domain is exempt from them
    assert [getattr(w, "domains", None) for w in works] == [None, None, ("code",), None, ("code",)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gopher_qualty", "did you mean gopher_quality"),
        ("near_duplicate", "did you mean near_duplicates"),
        ("document", "did you mean documents"),
        ("file", "did you mean files"),
        ("gsm", "did you mean gsm8k"),
        ("zzz", "allowed: benchmarks, c4, dataset-1, decontaminate, decontaminated, deduplicated, default, "),
    ],
)
def test_a_share_for_a_name_that_nothing_bears_is_refused_with_the_nearest_names(name, hint):
    more = "filters: {c4: {}}\ndeduplicate: {near: {}}\n"
    more += "decontaminate: {benchmarks: [{name: gsm8k, files: [q.jsonl]}]}\n"
    known = ("documents", "files", "gopher_quality", "c4", "exact_duplicates", "near_duplicates", "gsm8k", "scored")
    plan(parse(SMALL + more, *(f"max_dropped.{name}=1" for name in ("default", *known))))
    with pytest.raises(ConfigError) as error:
        plan(parse(SMALL + more, f"max_dropped.{name}=1"))
    message = f"max_dropped.{name}: no step, source or filter of this recipe has this name; {hint}"
    assert str(error.value).startswith(message)


def test_weights_are_shares_and_a_domain_takes_from_the_selection_what_it_does_not_say():
    recipe = parse(
        "name: s\nsource: {files: [a.jsonl]}\n"
        "select:\n"
        "  criteria: {language: {weight: 3}, style: {weight: 1, direction: lower}}\n"
        "  lam: 7\n  omega: 0.5\n"
        "  domains: {web: {weights: {style: 2}, eps: 0.5}, code: {lam: 1}}\n"
    )
    found = parameters_of(recipe.select, {"language": "higher", "style": "higher"})
    assert found.criteria == (
        Criterion(column="score.language", direction="higher"),
        Criterion(column="score.style", direction="lower"),
    )
    assert found.default == DomainParameters(alpha=(0.75, 0.25), lam=7, omega=0.5, eta=1.0, eps=0.0)
    assert found.domains == (
        ("code", DomainParameters(alpha=(0.75, 0.25), lam=1, omega=0.5, eta=1.0, eps=0.0)),
        ("web", DomainParameters(alpha=(0.0, 1.0), lam=7, omega=0.5, eta=1.0, eps=0.5)),
    )


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ConfigError, match="select: weights of language are all 0; give one a weight"):
        plan(parse(SMALL, "select.criteria.language.weight=0"))


def test_budgets_reach_the_steps_and_nothing_else():
    text = SMALL + "train: {steps: 5, warmup_steps: 1}\n"
    names = ("documents", "deduplicated", "tokenizer", "scored", "selection", "dataset", "sequences", "model")
    budgets = [f"budgets.{name}={number}" for number, name in enumerate(names, 1)]
    steps = plan(parse(text, *budgets))
    assert [s.budget for s in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [s.config() for s in steps] == [s.config() for s in plan(parse(text))]


def test_a_step_needs_its_parents_in_order():
    steps = plan(parse(SMALL))
    assert [s.name for s in needed(steps, ["tokenizer"])] == ["documents", "deduplicated", "tokenizer"]
    assert [s.name for s in needed(steps, ["selection-1", "documents"])] == [
        "documents",
        "deduplicated",
        "tokenizer",
        "scored",
        "selection-1",
    ]
    with pytest.raises(ConfigError, match="step model-1: this recipe has documents, deduplicated, tokenizer, scored"):
        needed(steps, ["model-1"])


# ── what keys know ───────────────────────────────────────────────────────────────────────────────

FULL = """
name: keys
source:
  files: [{path: x.jsonl, columns: {title: t}}]
  procedural: {}
filters:
  urls: {domains: [d.txt]}
  licenses: {allow: [MIT]}
  language: {languages: [en]}
  refinedweb: {}
  c4: {}
  fineweb: {}
  words: {lists: [w.txt]}
  pii: {}
  exempt: [code]
deduplicate: {near: {}, lines: {}, paragraphs: {}, substrings: {}, semantic: {}}
decontaminate: {benchmarks: [{name: riddles, files: [{path: q.jsonl}]}]}
embed: {model: {url: 'http://localhost:1/v1', model: small}}
group: {}
card: {license: mit, languages: [en]}
quality:
  positive: {domains: [a], files: [{path: good.txt}], environment: {}}
select:
  lam_max: 900
  criteria: {quality: {}, language: {}}
  domains: {web: {lam: 5.0, weights: {quality: 1.0, language: 1.0}}}
train: {steps: 10, warmup_steps: 2}
beside:
  capped: {max_epochs: 2.0, on_exhausted: redistribute}
  reference: {policy: {name: doremi}, reference_model: /models/a, mixture: proportional, temperature: 1.0}
rounds: 2
"""
# with a search the parameters of `select` are not used, so its entries are looked at by themselves
SEARCHED = """
name: keys
source: {files: [x.jsonl]}
select:
  criteria: {language: {}}
  search:
    target: {files: [t.jsonl]}
    proxy: {kind: loop}
"""
SCORED = """
name: keys
source: {files: [x.jsonl]}
scores:
  heuristic: {}
  perplexity: {reference: {domains: [web], files: [{path: good.txt}]}}
  askllm: {model: {url: 'http://localhost:1/v1', model: small}}
  classifier: {edu: {path: /models/edu, label: good}}
  lm: {model: /models/lm}
select: {criteria: {heuristic: {}}}
"""
MADE = """
name: keys
source: {files: [x.jsonl]}
select: {criteria: {language: {}}}
generate:
  prompt: {task: Write problems., shape: problems}
  model: {url: 'http://localhost:1/v1', model: small}
  gates:
    languages: [en]
    examples: {files: [seeds.jsonl]}
    relevance: {threshold: 0.2}
    judge: {model: {url: 'http://localhost:1/v1', model: small}}
    benchmarks: [{name: riddles, files: [q.jsonl]}]
    jury: {models: [{url: 'http://localhost:1/v1', model: small}]}
  budget: {max_cost: 3.0}
  prices: {small: {prompt: 1.0, completion: 2.0}}
transform:
  model: {url: 'http://localhost:1/v1', model: small}
  judge: true
  solve: {}
  embedding_band: [0.3, 0.99]
"""
LEARNING = """
name: keys
source: {files: [x.jsonl]}
select: {criteria: {language: {}}}
generate: {}
transform: {}
train: {steps: 10, warmup_steps: 2}
group_rl: {max_phrasings: 3}
"""
# language models that a recipe may name, and what is nothing to their answers
MODELS = ("generate.model", "generate.gates.judge.model", "generate.gates.jury.models.0", "transform.model")
TRANSPORT = ("api_key_env", "device", "batch_tokens", "concurrency", "timeout", "deadline", "attempts", "patience")

# nothing of the output hangs on these: where it goes, and how a run is watched
FREE = {"output", "max_dropped.default", "train.device", "train.threads", "train.tensorboard", "train.keep_checkpoints"}
FREE |= {
    f"train.{n}"
    for n in (
        "activation_checkpointing", "async_checkpoints", "cache_gb", "compile", "loss_chunk", "parallel", "peak_tflops",
        "prefetch", "processes", "rank_timeout",
    )
}  # fmt: skip
FREE |= {"refresh"}  # what rounds are made of: tests/refreshing/test_plan.py
FREE |= {f"embed.model.{n}" for n in ("device", "api_key_env", "batch_size", "concurrency", "timeout", "attempts")}
# where a scorer's model is and how it is run; the bytes of its files are in the key when a run looks at them
FREE |= {
    f"scores.askllm.model.{n}"
    for n in ("url", "api_key_env", "device", "batch_tokens", "concurrency", "timeout", "deadline", "attempts")
}
FREE |= {f"scores.classifier.edu.{n}" for n in ("path", "device", "batch_tokens", "direction")}
FREE |= {f"scores.lm.{n}" for n in ("model", "device", "batch_tokens")} | {
    "scores.askllm.store",
    "scores.askllm.max_failed",
}
FREE |= {f"select.search.proxy.{n}" for n in ("ngram.order", "ngram.discount", "loop.device")}
FREE |= {f"{model}.{n}" for model in (*MODELS, "scores.askllm.model") for n in TRANSPORT}
FREE |= {f"group_rl.{n}" for n in ("checkpoint_every", "device", "keep_checkpoints", "reward_workers", "threads")}
# what `None`, a text or a list may become; numbers and switches are changed by a rule
OTHER = {
    "refresh": {"when": "signals"},
    "generate": {},
    "transform": None,  # refused without generate
    "generate.procedural": None,  # refused beside a prompt
    "generate.prefix": None,
    "generate.prompt.task": "Write other problems.",
    "generate.prompt.shape": "problems",  # texts have no variants
    "generate.prompt.prompts": None,
    "generate.gates.languages": ["de"],
    "generate.gates.examples.files": ["others.jsonl"],
    "generate.gates.examples.column": "question",
    "generate.gates.judge.prompt": None,  # a file is read
    "generate.gates.benchmarks.0.name": "puzzles",
    "generate.gates.benchmarks.0.files": ["p.jsonl"],
    "generate.gates.benchmarks.0.question": "q",
    "generate.gates.benchmarks.0.answer": "a",
    "generate.gates.jury.rubric": "reasoning",
    "generate.gates.jury.prompt": None,
    "generate.voyage.threshold.strategy": "geometric",
    "generate.voyage.threshold.alpha": None,  # refused for the quantile
    "generate.voyage.threshold.decay": "none",
    "generate.voyage.prune": "greedy",
    "generate.voyage.refine": "always",
    "generate.voyage.explorer_weight": "acceptance",
    "generate.baseline": "default",
    "generate.compare": ["default"],
    "generate.budget.max_requests": 9,
    "generate.budget.max_tokens": 9,
    "transform.kinds": ["rename"],
    "transform.prompts": None,
    "transform.checks": ["structural"],
    "transform.solve.band": [0.125, 0.625],
    "transform.reference": {"url": "http://localhost:2/v1", "model": "large"},
    "transform.check_prompts": None,
    "transform.embedding_band": [0.2, 0.9],
    "transform.alone": "keep",
    "transform.budget.max_requests": 9,
    "transform.budget.max_tokens": 9,
    "transform.budget.max_cost": None,  # refused without prices
    "transform.prices": {},
    "name": "other",
    "dropped": "full",
    "output": "elsewhere",
    "source.files.0.path": "y.jsonl",
    "source.files.0.name": "named",
    "source.files.0.format": "csv",
    "source.files.0.columns.title": "u",
    "source.files.0.chat": {"learn": "all"},
    "source.files.0.domain": "d",
    "source.files.0.text_unit": "line",
    "source.files.0.license": "MIT",
    "source.files.0.extractor": "trafilatura",
    "source.hub": [{"dataset": "org/name"}],
    "source.environment": None,  # the files stand in its place
    "source.procedural.name": "problems",
    "source.procedural.families": ["gcd"],
    "source.procedural.config": {"gcd": {"min_numbers": 3}},
    "source.procedural.domain": "family",
    "source.on_bad_file": "drop",
    "filters.repair": {},
    "filters.gopher_quality.stop_words": ["the", "a"],
    "filters.gopher_repetition.max_top_ngrams": [[2, 0.3]],
    "filters.gopher_repetition.max_duplicate_ngrams": [[5, 0.3]],
    "filters.language.languages": ["de"],
    "filters.exempt": ["tests"],
    **{f"filters.urls.{kind}": ["o.txt"] for kind in ("domains", "urls", "words", "soft_words", "subwords")},
    "filters.licenses.allow": ["CC0-1.0"],
    "filters.licenses.deny": ["CC0-1.0"],
    "filters.licenses.unknown": "drop",
    "filters.language.thresholds": {"en": 0.5},
    **{f"filters.refinedweb.{kind}": ["more"] for kind in ("counters", "prefixes", "suffixes", "anywhere")},
    "filters.c4.policy_phrases": ["cookies"],
    "filters.fineweb.stop_characters": ".",
    "filters.words.lists": ["o.txt"],
    **{f"filters.pii.{kind}": "drop" for kind in ("email", "phone", "ip", "card", "iban", "key", "ssn")},
    "filters.pii.phone_regions": ["DE"],
    "deduplicate.near.action": "tag",
    "deduplicate.survivor": "longest",
    "deduplicate.history": ["earlier"],
    "deduplicate.lines.keep": "rare",
    "deduplicate.lines.match": "exact",
    "deduplicate.paragraphs.keep": "rare",
    "deduplicate.paragraphs.match": "exact",
    "deduplicate.semantic.keep": "closest",
    "decontaminate.near": 0.9,
    "decontaminate.policy": "excise",
    "decontaminate.boilerplate": ["all rights reserved"],
    "decontaminate.benchmarks.0.name": "puzzles",
    "decontaminate.benchmarks.0.question": "prompt",
    "decontaminate.benchmarks.0.answer": "solution",
    "decontaminate.benchmarks.0.files.0.path": "p.jsonl",
    "decontaminate.benchmarks.0.files.0.name": "named",
    "decontaminate.benchmarks.0.files.0.format": "csv",
    "decontaminate.benchmarks.0.files.0.columns": {},  # refused there: question and answer name them
    "decontaminate.benchmarks.0.files.0.chat": {},
    "decontaminate.benchmarks.0.files.0.domain": "d",
    "decontaminate.benchmarks.0.files.0.text_unit": "line",
    "decontaminate.benchmarks.0.files.0.license": "MIT",
    "decontaminate.benchmarks.0.files.0.extractor": "trafilatura",
    "embed.model.path": None,
    "embed.model.device": "cuda",
    "embed.model.url": "http://localhost:2/v1",
    "embed.model.model": "large",
    "embed.model.revision": "2",
    "embed.model.api_key_env": "KEY",
    "group.map": "tsne",
    "card.license": "apache-2.0",
    "card.description": "What it is.",
    "card.citation": "@misc{it}",
    "card.homepage": "https://example.org",
    "card.languages": ["de"],
    "quality.positive.domains": ["b"],
    "quality.positive.files.0.path": "better.txt",
    "quality.positive.files.0.name": "named",
    "quality.positive.files.0.format": "text",
    "quality.positive.files.0.columns": {"text": "u"},
    "quality.positive.files.0.chat": {},
    "quality.positive.files.0.domain": "d",
    "quality.positive.files.0.text_unit": "line",
    "quality.positive.files.0.license": "MIT",
    "quality.positive.files.0.extractor": "trafilatura",
    "quality.positive.environment.name": "python",
    "quality.positive.environment.max_domain_megabytes": 3.0,
    "quality.positive.environment.include": ["readmes"],
    "quality.positive.environment.exclude": ["readmes"],
    "quality.positive.environment.roots": [["here", "/tmp"]],
    "quality.negative.domains": ["c"],
    "quality.negative.files": [{"path": "bad.txt"}],
    "quality.negative.environment": {},
    "select.criteria.quality.direction": "lower",
    "select.criteria.language.direction": "lower",
    "select.eta_mode": "product",
    "select.normalizer_scope": "domain",
    "select.rank_at": "midpoint",
    "select.omega_max": 0.9,
    "select.domains.web.omega": 0.3,
    "select.domains.web.eta": 0.3,
    "select.domains.web.eps": 0.3,
    "select.domains.web.multiplier": 2.0,
    "select.target_tokens": 1000,
    "select.copy_cap": 2.0,
    "quality.model": None,  # refused beside positive
    "scores.heuristic": {},
    "scores.heuristic.stop_words": ["a"],
    "scores.perplexity": {"reference": {"domains": ["a"]}},
    "scores.perplexity.reference.domains": ["code"],
    "scores.perplexity.reference.environment": {},
    "scores.perplexity.reference.files.0.path": "better.txt",
    "scores.perplexity.reference.files.0.name": "named",
    "scores.perplexity.reference.files.0.format": "csv",
    "scores.perplexity.reference.files.0.columns": {"text": "u"},
    "scores.perplexity.reference.files.0.chat": {},
    "scores.perplexity.reference.files.0.domain": "d",
    "scores.perplexity.reference.files.0.text_unit": "line",
    "scores.perplexity.reference.files.0.license": "MIT",
    "scores.perplexity.reference.files.0.extractor": "trafilatura",
    "scores.perplexity.unit": "word",
    "scores.perplexity.order": 3,
    "scores.askllm": {"model": {"path": "/models/judge"}},
    "scores.askllm.model.path": None,  # refused beside url
    "scores.askllm.model.url": "http://localhost:2/v1",
    "scores.askllm.model.model": "large",
    "scores.askllm.model.revision": "2",
    "scores.askllm.model.api_key_env": "KEY",
    "scores.askllm.model.device": "cuda",
    "scores.askllm.style": "chat",
    "scores.askllm.prompt": "{text}?",
    "scores.askllm.yes": ["ja"],
    "scores.askllm.no": ["nein"],
    "scores.askllm.over": "all",
    "scores.askllm.store": "/answers.sqlite",
    "scores.classifier": {"edu": {"path": "/models/edu"}},
    "scores.classifier.edu.path": "/models/b",
    "scores.classifier.edu.label": "poor",
    "scores.classifier.edu.direction": "lower",
    "scores.classifier.edu.device": "cuda",
    "scores.lm": {"model": "/models/lm"},
    "scores.lm.model": "/models/b",
    "scores.lm.device": "cuda",
    "scores.lm.dtype": "bfloat16",
    "scores.lm.batch_tokens": 99,
    "select.search": {"target": {"domains": ["a"]}},
    "select.search.method": "climb",
    "select.search.evidence": "measured",
    "select.search.average_space": "value",
    "select.search.rounds": [32, 32],
    "select.search.lambda_scale": "linear",
    "select.search.space": "mixture",
    "select.search.target.domains": [],  # refused beside files
    "select.search.target.files.0.path": "u.jsonl",
    "select.search.target.files.0.name": "named",
    "select.search.target.files.0.format": "csv",
    "select.search.target.files.0.columns": {"text": "u"},
    "select.search.target.files.0.chat": {},
    "select.search.target.files.0.domain": "d",
    "select.search.target.files.0.text_unit": "line",
    "select.search.target.files.0.license": "MIT",
    "select.search.target.files.0.extractor": "trafilatura",
    "select.search.proxy.kind": "ngram",
    "select.search.proxy.loop.device": "auto",
    "select.search.proxy.loop.model.path": None,  # refused: proxies start from random weights
    "select.search.proxy.loop.model.hidden_size": 32,
    "select.search.proxy.loop.model.heads": 4,
    "select.search.proxy.loop.model.kv_heads": 1,
    "select.search.proxy.loop.model.context_length": 300,
    "tokenizer.kind": "bytes",
    "tokenizer.digits": "right_to_left",
    "tokenizer.special": ["<|x|>"],
    "sequences.tail": "cut",
    "train.model.path": "/models/small",
    "train.model.hidden_size": 64,
    "train.model.heads": 2,
    "train.model.kv_heads": 1,
    "train.model.context_length": 300,
    "train.micro_batch_size": 4,
    "train.mixture": "uniform",
    "train.warmup_steps": 3,
    "train.device": "cpu",
    "train.precision": "bfloat16",
    "train.threads": 2,
    "train.max_epochs": None,  # needs another on_exhausted than FULL's
    "train.on_exhausted": "stop",
    "train.group_rows": 512,
    "train.policy": {"name": "cooldown"},
    "train.reference_model": None,  # only with a policy that compares: see beside.reference
    "train.weighting": {"strategy": "quadratic"},
    "train.max_gradient_norm": 5.0,
    "train.spike_z": 4.0,
    "train.processes": 2,
    "train.parallel": "none",
    "train.loss_chunk": 512,
    "train.peak_tflops": 1.0,
    "beside.capped.on_exhausted": "stop",
    "beside.reference.policy.name": "doremi",
    "beside.reference.mixture": "proportional",
    "beside.reference.temperature": 1.0,
    "beside.reference.reference_model": "/models/b",
    "feedback.direction": "lower",
    "group_rl": {"problems": "groups.parquet"},
    "group_rl.objective": "grpo",
    "group_rl.phrasings": "one",
    "group_rl.instruction": "Answer.",
    "group_rl.pool": "problem",
    "group_rl.scale": "none",
    "group_rl.std": "population",
    "group_rl.normalizer": "dr",
    "group_rl.clip_high": 0.28,
    "group_rl.ratio_context": "original_swap",
    "group_rl.kl_estimator": "k1",
    "group_rl.nft_weight": 1,
    "group_rl.reward": "package.module:function",
    "group_rl.reward_workers": 2,
    "group_rl.updates_per_step": 2,
    "group_rl.schedule": "linear",
    "group_rl.device": "cpu",
    "group_rl.precision": "bfloat16",
    "group_rl.threads": 2,
    "group_rl.eval_ks": [1, 2],
    "group_rl.model": "/models/a",
    "group_rl.problems": "groups.parquet",
    "group_rl.prompt": "Q: {question}",
}


def leaves(value, path=()):
    """Dotted path and value of everything a recipe can say."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def told(recipe):
    """What enters the key of every step, parents' digests and outside files apart."""
    keys = {s.name: hash_json([type(s).__name__, s.parents, s.config()]) for s in plan(recipe)}
    return keys | {"seed": recipe.seed, "dropped": recipe.dropped}


@functools.cache
def whole(text):
    """(settings, what enters the keys) of a recipe as it stands."""
    recipe = Recipe.parse(text)
    return recipe.model_dump(mode="json"), told(recipe)


FULL_LEAVES = [(FULL, *leaf) for leaf in leaves(Recipe.parse(FULL).model_dump(mode="json"))]
FULL_LEAVES += [
    (SCORED, path, value) for path, value in leaves(Recipe.parse(SCORED).model_dump(mode="json")) if path[0] == "scores"
]
FULL_LEAVES += [
    (SEARCHED, path, value)
    for path, value in leaves(Recipe.parse(SEARCHED).model_dump(mode="json"))
    if path[:2] == ("select", "search")
]
FULL_LEAVES += [
    (LEARNING, path, value)
    for path, value in leaves(Recipe.parse(LEARNING).model_dump(mode="json"))
    if path[0] == "group_rl"
]
FULL_LEAVES += [
    (MADE, path, value)
    for path, value in leaves(Recipe.parse(MADE).model_dump(mode="json"))
    if path[0] in ("generate", "transform")
]
OTHER |= {
    f"{model}.{name}": other
    for model in (*MODELS, "scores.askllm.model")
    for name, other in {
        "path": None,  # refused beside url, as is what belongs to a folder
        "engine": "transformers",
        "python": None,
        "arguments": {},
        "device": "cuda",
        "url": "http://localhost:2/v1",
        "model": "large",
        "revision": "2",
        "api_key_env": "KEY",
    }.items()
}
FREE |= {f"{model}.url" for model in (*MODELS, "scores.askllm.model")}  # the same model at another address
FREE |= {"scores.askllm.model.schemas"}  # it asks for none


@pytest.mark.parametrize(("text", "path", "value"), FULL_LEAVES, ids=[".".join(map(str, p)) for _, p, _ in FULL_LEAVES])
def test_every_entry_of_a_recipe_changes_a_key_or_is_known_to_be_free(text, path, value):
    name = ".".join(map(str, path))
    full, keys = whole(text)
    changed = json.loads(json.dumps(full))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if name in OTHER:
        other = OTHER[name]
    elif isinstance(value, bool):
        other = not value
    elif name.startswith("budgets."):
        other = 5.0
    elif isinstance(value, int):
        other = value + 1
    elif isinstance(value, float):
        other = value * 0.5 or 0.25
    else:
        pytest.fail(f"{name} = {value!r}: say in OTHER what it may become")
    place[path[-1]] = other
    differs = told(Recipe.model_validate(changed)) != keys
    free = name in FREE or name.startswith("budgets.") or other == value
    assert differs == (not free)


def test_keys_are_the_same_in_another_process():
    code = (
        "import json, sys\n"
        "from penstock.dataset import hash_json\n"
        "from penstock.pipelines.plan import plan\n"
        "from penstock.recipe import Recipe\n"
        "steps = plan(Recipe.parse(sys.argv[1]))\n"
        "print(json.dumps({s.name: hash_json([type(s).__name__, s.parents, s.config()]) for s in steps}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, FULL],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = told(Recipe.parse(FULL))
    assert json.loads(done.stdout) == {name: key for name, key in here.items() if name not in ("seed", "dropped")}


# ── whole runs of the steps ──────────────────────────────────────────────────────────────────────


def recipe_of(folder, *overrides):
    text = f"""
name: hostile
source: {{files: [{{path: '{folder}/*.jsonl', columns: {{domain: domain}}}}]}}
filters: {{gopher_quality: null, gopher_repetition: null}}
splits: {{validation: 0.2, test: 0.1}}
tokenizer: {{vocabulary_size: 300, sample_mb: 0.01}}
select: {{criteria: {{language: {{}}}}, omega: 0.9, eps: 0.5, normalizer_scope: domain}}
sequences: {{length: 32}}
train:
  {{steps: 4, batch_size: 4, warmup_steps: 1, eval_every: 4, eval_sequences: 1, checkpoint_every: 4, signals_every: 2,
    threads: 1, device: cpu, model: {{hidden_size: 16, layers: 1, heads: 2, kv_heads: 1, ffn_size: 32}}}}
rounds: 2
"""
    return Recipe.parse(text, list(overrides))


def build(recipe, root, **settings):
    """Every step in this process; returns the manifests by step."""
    given = {"seed": recipe.seed, "dropped": recipe.dropped, "split_bytes": 2000} | settings
    folder = Folder(str(root))
    return {s.name: run_step(s, folder, HomeEngine(0), Silent(), Settings(**given)).manifest for s in plan(recipe)}


@pytest.fixture
def small_ranges(monkeypatch):
    """Several hash ranges for keys and for tokens, as a large corpus has."""
    monkeypatch.setattr(deduplicate, "KEYS_PER_RANGE", 25)
    monkeypatch.setattr(sequences, "TOKENS_PER_RANGE", 500)


SENTENCE = "the water of the river turns the wheel of mill number {} and the miller sings of domain {}. "


def test_any_domain_passes_through_every_step_and_none_reaches_a_file_name(lab, hostile, small_ranges):
    rows = [(SENTENCE.format(i, n) * (1 + i % 3), domain) for i in range(12) for n, domain in enumerate(hostile)]
    lab.files(one=rows)
    manifests = build(recipe_of(lab.base / "corpus"), lab.root)
    scored = Dataset(str(lab.root / "scored")).read("documents")
    assert Counter(scored["domain"].to_pylist()) == dict.fromkeys(hostile, 12)
    for number in (1, 2):
        assert set(manifests[f"selection-{number}"].stats["domains"]["train"]) == set(hostile)
        assert set(manifests[f"dataset-{number}"].stats["domains"]["train"]) <= set(hostile)
        assert set(manifests[f"sequences-{number}"].stats["domains"]["train"]) <= set(hostile)
    published = Dataset(str(lab.root / "dataset-1")).read("train")
    assert set(published["domain"].to_pylist()) <= set(hostile)
    signals = Dataset(str(lab.root / "model-1")).read("signals")
    assert set(signals["domain"].to_pylist()) <= set(hostile)
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")
    assert all(set(name) <= plain for name in lab.names())
    inside = os.path.realpath(lab.root)
    assert all(os.path.realpath(lab.root / name).startswith(inside + os.sep) for name in lab.names())
    assert sorted(os.listdir(lab.base)) == ["corpus", "run"]


def test_a_corpus_of_one_document_passes_through_every_step(lab):
    lab.files(one=[(SENTENCE.format(1, 1), "only")])
    recipe = recipe_of(lab.base / "corpus", "splits={validation: 0, test: 0}", "select.omega=1", "rounds=1")
    manifests = build(recipe, lab.root)
    assert Dataset(str(lab.root / "dataset-1")).read("train")["domain"].to_pylist() == ["only"]
    told = manifests["sequences-1"].stats["tokens"]["train"]["only"]
    assert told["in"] == told["packed"] == manifests["selection-1"].stats["domains"]["train"]["only"]["tokens"] > 0
    assert manifests["model-1"].stats["validation"] == {}


def test_a_corpus_that_is_held_out_as_a_whole_stops_where_something_is_learned_from_it(lab):
    lab.files(one=[(SENTENCE.format(1, 1), "only")])
    recipe = recipe_of(lab.base / "corpus", "splits={validation: 0.99, test: 0}")
    with pytest.raises(DatasetError, match="tokenizer: none of the 1 documents is in the train split; lower splits"):
        build(recipe, lab.root)


def test_one_recipe_in_two_folders_has_the_same_keys_and_no_key_knows_a_folder(lab, tmp_path, small_ranges):
    lab.files(one=[(SENTENCE.format(i, i % 3), "abc"[i % 3]) for i in range(150)])
    recipe = recipe_of(lab.base / "corpus", "quality={positive: {domains: [a]}, rows_per_side: 20}", "rounds=2")
    here, there = build(recipe, lab.root), build(recipe, tmp_path / "other" / "place", split_bytes=700)
    assert {name: m.key for name, m in here.items()} == {name: m.key for name, m in there.items()}
    assert {name: m.digest for name, m in here.items()} == {name: m.digest for name, m in there.items()}
    for name, manifest in here.items():
        said = json.dumps(manifest.key_parts)
        assert str(lab.root) not in said, name
        assert name == "documents" or str(lab.base) not in said, name
    # a run that was moved goes on where it stands
    shutil.move(lab.root, tmp_path / "moved")
    folder, known = Folder(str(tmp_path / "moved")), {}
    for step in plan(recipe):
        assert check_step(step, folder, known, Settings(recipe.seed, recipe.dropped)).skip, step.name
        known[step.name] = Dataset(folder / step.name).manifest


def test_settings_that_decide_no_row_are_in_no_key(lab):
    source = lab.files(one=[("text", "d")])
    key = lab.documents(source).manifest.key
    assert lab.documents(source, split_bytes=1).manifest.key == key
    assert lab.documents(source, dropped="ids").manifest.key != key
    assert lab.documents(source, seed=1).manifest.key != key

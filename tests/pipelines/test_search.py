"""The search step on planted data: what it finds, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from penstock.errors import ConfigError, DatasetError, TrainingError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import run_split
from penstock.pipelines.search import ARTIFACT, Search, parameters_in
from penstock.pipelines.select import Selection
from penstock.seeding import hash_ids, stream
from penstock.selectors.proxies.config import ProxyConfig, SearchConfig, TargetConfig
from penstock.selectors.proxies.loop import LoopConfig
from penstock.selectors.quadmix_theta import Criterion, DomainParameters, QuaDMixParameters
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder
from penstock.training.config import ModelConfig

WORDS = 40
BOX = QuaDMixParameters(
    criteria=(Criterion(column="score.one", direction="higher"), Criterion(column="score.two", direction="higher")),
    default=DomainParameters(alpha=(0.5, 0.5), lam=10.0, omega=0.5, eta=1.0, eps=0.0),
    omega_max=1.0,
    copy_cap=4.0,
)
SEARCH = SearchConfig(
    target=TargetConfig(domains=("left", "right")),
    proxies=48,
    method="evolution",
    draws=4000,
    generations=10,
    children=400,
    share=0.25,
)


def sentence(rng, steps):
    """Words that follow one another by a step of the language, now and then by none."""
    word, out = int(rng.integers(WORDS)), []
    for _ in range(40):
        out.append(2 + word)
        word = (word + (int(rng.choice(steps)) if rng.random() > 0.1 else int(rng.integers(WORDS)))) % WORDS
    return out


def corpus(documents=300, seed=0, shuffled=False):
    """Three domains. Half of each is spoilt: its words are shuffled. ``left`` and ``right`` speak like the target.

    ``score.one`` knows what is spoilt in ``left`` and nothing in ``right``, ``score.two`` the other way round;
    ``other`` is clean and both scores praise it, but it speaks another language. ``shuffled`` deals the scores out anew
    among the documents of each domain.
    """
    rng = stream(seed, "planted")
    rows = []
    for domain, steps in (("left", (3, 5)), ("right", (7, 11)), ("other", (17, 23))):
        for i in range(documents):
            spoilt = domain != "other" and rng.random() < 0.6
            words = sentence(rng, steps)
            held_out = not spoilt and i % 6 == 0 and domain != "other"
            known, unknown = (0.0 if spoilt else 0.7) + 0.3 * rng.random(), rng.random()
            scores = {"left": (known, unknown), "right": (unknown, known), "other": (known, known)}[domain]
            rows.append(
                {
                    "doc_id": f"{domain}#{i}",
                    "domain": domain,
                    "split": "validation" if held_out else "train",
                    "token_ids": [*(rng.permutation(words).tolist() if spoilt else words), 1],
                    "score.one": round(float(scores[0]), 4),
                    "score.two": round(float(scores[1]), 4),
                    "spoilt": spoilt,
                }
            )
    if shuffled:
        for domain in ("left", "right", "other"):
            own = [row for row in rows if row["domain"] == domain]
            dealt = [(row["score.one"], row["score.two"]) for row in own]
            for row, place in zip(own, rng.permutation(len(own)), strict=True):
                row["score.one"], row["score.two"] = dealt[place]
    ids = [row["doc_id"] for row in rows]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(3, "token_ids", table["token_ids"].cast(pa.list_(pa.uint16())))
    for name in ("score.one", "score.two"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.float32()))
    tokens = pc.list_value_length(table["token_ids"])
    columns = {
        "id_hash": pa.array(hash_ids(ids)),
        "tokens": tokens.cast(pa.int32()),
        "bytes": tokens.cast(pa.int64()),
        "content_hash": pa.array([f"{i:016}".encode() for i in range(len(ids))], pa.binary(16)),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.combine_chunks().to_batches()[0]


def prepare(lab, batch, cut=None, sizes=()):
    """Commit ``scored`` and ``tokenizer`` as the steps before would."""
    stats = {"tokens": {}, "domains": {}}
    for row in batch.to_pylist():
        name = row["domain"]
        stats["tokens"][name] = stats["tokens"].get(name, 0) + row["tokens"]
        stats["domains"].setdefault(name, {"rows": 0})["rows"] += 1
    lab.given("scored", stats=stats, documents=cut(batch, sizes) if cut else [batch])
    lab.given("tokenizer", stats={"vocabulary": WORDS + 2, "pad_id": 0}, artifacts={"tokenizer.json": b"{}"})


def step(search=SEARCH, box=BOX, **more):
    given = {"source": None, "works": (), "seed": 5} | more
    return Search("search", "scored", "tokenizer", search, box, **given)


def found_in(dataset):
    return json.loads(dataset.folder.read_bytes(dataset.manifest.artifacts[ARTIFACT].path))


class Killed(HomeEngine):
    """Runs some proxies and stops, as a kill does."""

    def __init__(self, proxies):
        super().__init__(0)
        self.left = proxies

    def map(self, job, splits, done):
        if not job.prefix.startswith("measured/"):
            return super().map(job, splits, done)
        for split in splits:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            run_split(job, split)
        return None


def run_on(lab, engine, what=None):
    folder = Folder(str(lab.root))
    return run_step(what or step(replace(SEARCH, proxies=20)), folder, engine, Silent(), Settings())


# ── what it finds ────────────────────────────────────────────────────────────────────────────────


def test_the_planted_domain_and_the_criterion_of_each_domain_are_found_and_shuffled_scores_lose(new_lab):
    losses, spoilt, shares = {}, {}, {}
    for shuffled in (False, True):
        lab, batch = new_lab(), corpus(shuffled=shuffled)
        prepare(lab, batch)
        found = found_in(lab.run(step(replace(SEARCH, proxies=200))))
        made = lab.run(Selection("selection-1", "scored", BOX, 9, search="search")).read("selection")
        losses[shuffled] = min(c["mean"] for c in found["candidates"])
        known = dict(zip(batch["doc_id"].to_pylist(), batch["spoilt"].to_pylist(), strict=True))
        copies = {domain: [0, 0] for domain in ("left", "right", "other")}
        for row in made.to_pylist():
            if row["split"] == "train":
                copies[row["domain"]][known[row["doc_id"]]] += row["copies"]
        taken = sum(map(sum, copies.values()))
        shares[shuffled] = {domain: sum(of) / taken for domain, of in copies.items()}
        spoilt[shuffled] = {domain: copies[domain][1] / sum(copies[domain]) for domain in ("left", "right")}
        if not shuffled:
            alpha = {domain: of["alpha"] for domain, of in found["theta"]["domains"].items()}
            assert alpha["left"]["one"] > alpha["left"]["two"]
            assert alpha["right"]["two"] > alpha["right"]["one"]
            assert found["surrogate"]["fit"]["r2"] > 0.3
    # a third of all documents are of the other domain, six of ten are spoilt in those of the target
    assert shares[False]["other"] < 0.15
    assert max(spoilt[False].values()) < 0.4
    assert min(spoilt[True].values()) > 0.5
    assert losses[False] < losses[True] - 0.1


def test_a_mixture_finds_the_domains_and_its_parameters_select_the_same_tokens(lab):
    prepare(lab, corpus())
    made = lab.run(step(replace(SEARCH, space="mixture", domain_multiplier=False, method="random")))
    found = found_in(made)
    shares = found["theta"]["shares"]
    assert shares["other"] < 0.1
    assert min(shares["left"], shares["right"]) > 0.3
    assert {name.partition(".")[2] for name in found["names"]} == {"share"}
    selection = lab.run(Selection("selection-1", "scored", BOX, 9, search="search"))
    tokens = {name: of["tokens"] for name, of in selection.manifest.stats["domains"]["train"].items()}
    total = sum(tokens.values())
    assert total == pytest.approx(found["parameters"]["target_tokens"], rel=0.1)
    for name, share in shares.items():
        assert tokens.get(name, 0) / total == pytest.approx(share, abs=0.05)


# ── what it leaves behind ────────────────────────────────────────────────────────────────────────


def test_its_tables_hold_every_proxy_and_its_artifact_the_parameters_that_selections_take(lab):
    prepare(lab, corpus())
    made = lab.run(step(replace(SEARCH, proxies=20)))
    found = found_in(made)
    theta, proxies = made.read("theta"), made.read("proxies").to_pylist()
    whole = [row for row in proxies if row["target"] == ""]
    assert [row["trial"] for row in whole] == list(range(len(whole)))
    assert {row["target"] for row in proxies} == {"", "left", "right"}
    assert len(proxies) == 3 * len(whole)
    assert [row["loss"] for row in whole] == [m["loss"] for m in found["measured"]]
    units = {tuple(m["trial"]["unit"]) for m in found["measured"]}
    assert {tuple(unit) for unit in theta["unit"].to_pylist()} == units
    assert theta["theta_id"].to_pylist() == list(range(len(units)))
    for row, measured in zip(whole, found["measured"], strict=True):
        assert theta["unit"][row["theta_id"]].as_py() == measured["trial"]["unit"]
        assert abs(row["tokens"] - found["proxy_tokens"]) < 0.2 * found["proxy_tokens"]
        assert row["unique_tokens"] <= row["tokens"]
    assert "seconds" not in json.dumps(found)
    assert "seconds" not in {*theta.column_names, *made.read("proxies").column_names}
    log = (lab.root / "logs/search/proxies.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in log] == list(range(len(whole)))

    parameters = parameters_in(found)
    tokens = sum(of["tokens"] for of in found["train"].values())
    assert parameters.target_tokens == round(0.25 * tokens)
    assert (parameters.criteria, parameters.copy_cap) == (BOX.criteria, 4.0)
    (best,) = {tuple(c["unit"]) for c in found["candidates"] if c["label"] == found["label"]}
    assert best == tuple(found["unit"])
    for domain, of in found["theta"]["domains"].items():
        own = parameters.of(domain)
        assert own.omega == of["omega"]
        assert own.alpha == (of["alpha"]["one"], of["alpha"]["two"])
    given = lab.run(Selection("given", "scored", parameters, 9)).read("selection")
    searched = lab.run(Selection("selection-1", "scored", BOX, 9, search="search")).read("selection")
    assert searched.equals(given)


def test_the_signals_of_training_join_what_was_found_as_one_more_criterion(lab):
    from penstock.schema import SIGNALS

    batch = corpus()
    prepare(lab, batch)
    parameters = parameters_in(found_in(lab.run(step(replace(SEARCH, proxies=20)))))
    signals = [
        {name: 0 for name in SIGNALS.names}
        | {"doc_id": name, "domain": "left", "tokens": 3, "loss": 1.0, "excess_loss": float(i % 7)}
        for i, name in enumerate(batch["doc_id"].to_pylist())
    ]
    lab.given("model-1", signals=pa.Table.from_pylist(signals, schema=SIGNALS).combine_chunks().to_batches())
    made = lab.run(Selection("selection-2", "scored", BOX, 9, "model-1", search="search", feedback=(1.0, "higher")))
    theta = made.manifest.stats["theta"]
    for domain, of in theta.items():
        assert of["weights"]["score.excess_loss"] == pytest.approx(0.5)
        assert of["weights"]["score.one"] == pytest.approx(parameters.of(domain).alpha[0] / 2)
    plain = lab.run(Selection("selection-1", "scored", BOX, 9, search="search")).read("selection")
    assert plain["copies"].to_pylist() != made.read("selection")["copies"].to_pylist()


def test_a_killed_search_pays_for_no_proxy_twice_and_comes_to_the_same_end(new_lab):
    batch = corpus(120)
    straight, killed = new_lab(), new_lab()
    for lab in (straight, killed):
        prepare(lab, batch)
    wanted = run_on(straight, HomeEngine(0)).manifest
    paid = len(list((straight.root / "search/measured").rglob("*.json")))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_on(killed, Killed(9))
    engine = Killed(1000)
    assert run_on(killed, engine).manifest.digest == wanted.digest
    assert 1000 - engine.left == paid - 27
    again = Killed(1000)
    run_on(killed, again, step(replace(SEARCH, proxies=20, z=0.5, remeasure_seeds=3)))
    assert 1000 - again.left <= 6, "other settings of the decision take over what was measured"


def test_workers_and_parts_change_nothing(new_lab, cut):
    batch, digests = corpus(120), set()
    for workers, sizes in ((0, ()), (0, (50, 3, 100)), (2, (200,))):
        lab = new_lab()
        prepare(lab, batch, cut, sizes)
        with HomeEngine(workers) as engine:
            digests.add(run_on(lab, engine).manifest.digest)
    assert len(digests) == 1


def test_a_pool_larger_than_wanted_is_a_sample_by_hash_with_the_corpus_share_of_tokens(lab):
    prepare(lab, corpus())
    found = found_in(lab.run(step(replace(SEARCH, proxies=20, pool_tokens=10_000))))
    pool, train = found["pool"], sum(of["tokens"] for of in found["train"].values())
    assert 5_000 < pool["tokens"] <= 10_100 < train
    assert found["proxy_tokens"] == pytest.approx(0.25 * pool["tokens"], abs=1)
    assert found["parameters"]["target_tokens"] == round(0.25 * train)
    asked = found_in(lab.run(step(replace(SEARCH, proxies=20), replace(BOX, target_tokens=train // 2))))
    assert asked["parameters"]["target_tokens"] == train // 2
    assert asked["proxy_tokens"] == pytest.approx(asked["pool"]["tokens"] / 2, abs=1)


def test_proxies_of_the_loop_measure_a_search_too(lab):
    prepare(lab, corpus(60))
    model = ModelConfig(hidden_size=8, layers=1, heads=1, kv_heads=1, ffn_size=16)
    loop = LoopConfig(steps=8, batch_size=4, learning_rate=0.03, length=32, warmup_steps=1, model=model)
    target = replace(SEARCH.target, tokens=100)
    small = replace(SEARCH, proxies=16, top_measured=1, proxy=ProxyConfig(kind="loop", loop=loop), target=target)
    made = lab.run(step(small))
    losses = [row["loss"] for row in made.read("proxies").to_pylist()]
    assert all(0 < loss < 2 * np.log(WORDS) for loss in losses)
    assert len(set(losses)) > 10
    assert found_in(made)["target"] == {"left": 100, "right": 100}


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def with_column(batch, name, values):
    return batch.set_column(batch.schema.get_field_index(name), name, values)


def test_a_target_that_is_no_domain_or_has_nothing_held_out_is_refused(lab):
    prepare(lab, corpus(30))
    with pytest.raises(ConfigError, match=r"got 'lift', which no document has; did you mean 'left'\? the corpus has"):
        lab.run(step(replace(SEARCH, target=TargetConfig(domains=("lift",)))))
    with pytest.raises(DatasetError, match=r"no document of 'other' is in the validation split; raise splits.valid"):
        lab.run(step(replace(SEARCH, target=TargetConfig(domains=("other",)))))


def test_a_criterion_that_is_constant_or_has_no_scores_does_not_stop_the_search(lab):
    batch = corpus(60)
    rows = batch.num_rows
    prepare(lab, with_column(batch, "score.two", pa.array(np.full(rows, 0.5, np.float32))))
    made = lab.run(step(replace(SEARCH, proxies=12)))
    assert any("score.two" in warning for warning in made.manifest.stats["warnings"])
    assert any("score.two" in warning for warning in lab.warnings)


def test_a_criterion_that_no_document_has_and_a_column_that_is_not_there_are_refused(new_lab):
    batch = corpus(30)
    lab = new_lab()
    prepare(lab, with_column(batch, "score.two", pa.nulls(batch.num_rows, pa.float32())))
    with pytest.raises(DatasetError, match=r"score\.two: no training row has a score"):
        lab.run(step())
    lab = new_lab()
    prepare(lab, batch)
    absent = replace(BOX, criteria=(*BOX.criteria[:1], Criterion(column="score.three", direction="higher")))
    with pytest.raises(DatasetError, match=r"score\.three not in .*; add the step that scores it"):
        lab.run(step(box=absent))


def test_a_domain_with_one_document_and_scores_that_are_absent_for_some_rows_are_searched(lab):
    batch = corpus(60)
    values = batch["score.one"].to_pylist()
    scores = pa.array([None if i % 3 == 0 else v for i, v in enumerate(values)], pa.float32())
    domains = ["lonely" if i == 1 else name for i, name in enumerate(batch["domain"].to_pylist())]
    prepare(lab, with_column(with_column(batch, "score.one", scores), "domain", pa.array(domains)))
    found = found_in(lab.run(step(replace(SEARCH, proxies=12))))
    assert found["train"]["lonely"]["documents"] == 1
    assert "lonely" in found["theta"]["domains"]
    assert all(np.isfinite(m["loss"]) for m in found["measured"])


def test_more_tokens_than_the_cap_allows_says_so_for_every_proxy(lab):
    batch = corpus(60)
    prepare(lab, batch)
    with pytest.raises(TrainingError, match=r"0 of 48 proxies have a finite loss.*infeasible: quadmix target_tokens"):
        lab.run(step(box=replace(BOX, target_tokens=50 * batch.num_rows, copy_cap=0.5)))


def test_target_content_that_is_trained_on_is_left_out_and_counted(new_lab):
    batch = corpus(60)
    held_out = [i for i, row in enumerate(batch.to_pylist()) if row["split"] == "validation"]
    train = [i for i, row in enumerate(batch.to_pylist()) if row["split"] == "train"]
    hashes = batch["content_hash"].to_pylist()
    for place in (held_out[:3], held_out):
        lab = new_lab()
        shared = list(hashes)
        for i, other in zip(place, train, strict=False):
            shared[i] = hashes[other]
        prepare(lab, with_column(batch, "content_hash", pa.array(shared, pa.binary(16))))
        if place is held_out:
            with pytest.raises(DatasetError, match=f"all {len(held_out)} documents stand in the training documents"):
                lab.run(step(replace(SEARCH, proxies=12)))
            continue
        found = found_in(lab.run(step(replace(SEARCH, proxies=12))))
        assert found["target_overlap"] == {"left_out": 3, "documents": len(held_out)}
        assert any(f"3 of {len(held_out)} documents of the target stand in" in warning for warning in lab.warnings)


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────

SECTION = """
  search:
    target: {target}
    proxies: 12
    draws: 500
    top: 5
    share: 0.5
"""


@pytest.mark.parametrize("kind", ["domains", "files"])
def test_a_recipe_with_a_search_selects_by_what_it_found(recipe_text, tmp_path, kind):
    from penstock.recipe import Recipe
    from penstock.run import check, run

    files = tmp_path / "target.jsonl"
    lines = (tmp_path / "corpus" / "rivers.jsonl").read_text().splitlines()
    new = json.dumps({"text": "The river turns the wheel of the mill. " * 20})
    files.write_text("\n".join([*(line for line in lines[:12] if "text" in line), new]))
    target = {"domains": "{domains: [rivers]}", "files": f"{{files: '{files}'}}"}[kind]
    text = recipe_text.partition("train:")[0].replace(
        "select: {omega: 0.7, lam: 10, eps: 0.2, eps_max: 1.0}",
        "select:\n  eps_max: 1.0" + SECTION.format(target=target),
    )
    recipe = Recipe.parse(text)
    out = str(tmp_path / "run")
    steps = [c.step for c in check(recipe, out=out)]
    names = [s.name for s in steps]
    assert names[names.index("scored") : names.index("selection-1") + 1] == ["scored", "search", "selection-1"]
    assert steps[names.index("selection-1")].parents == ("scored", "search")
    result = run(recipe, out=out, workers=0, report=False)
    by_name = {r.step.name: r.manifest for r in result.steps}
    search = json.loads(Folder(out).read_bytes(f"search/{by_name['search'].artifacts[ARTIFACT].path}"))
    theta = by_name["selection-1"].stats["theta"]
    assert {d: of["omega"] for d, of in theta.items()} == {
        d: of["omega"] for d, of in search["theta"]["domains"].items()
    }
    assert set(search["target"]) == ({"rivers"} if kind == "domains" else {"files"})
    assert (search["target_overlap"]["left_out"] > 0) == (kind == "files")
    assert all(r.skipped for r in run(recipe, out=out, workers=0, report=False).steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("target={}", "got neither domains nor files"),
        ("target={domains: [a], files: b.jsonl}", "got both domains and files"),
        ("target={domains: [a], tokens: 0}", "search.target.tokens: got 0"),
        ("share=0", "search.share: got 0"),
        ("pool_tokens=0", "search.pool_tokens: got 0"),
        ("proxies=3", "search proxies: got 3, allowed >= 10"),
        ("proxy.kind=gpt", "select.search.proxy.kind"),
        ("proxy.ngram={order: 9}", "ngram.order: got 9, allowed 2 to 5"),
        ("proxy.loop={stepz: 9}", "unknown key select.search.proxy.loop.stepz; did you mean steps"),
        ("tagret={}", "unknown key select.search.tagret; did you mean target"),
        ("space=mixture", "search.domain_multiplier: a mixture is nothing but shares"),
    ],
)
def test_a_wrong_section_is_refused_when_it_is_read(change, message):
    from penstock.recipe import Recipe

    text = "name: s\nsource: {files: [a.jsonl]}\nselect: {criteria: {language: {}}, search: {target: {domains: [a]}, "
    text += "domain_multiplier: true}}\n"
    Recipe.parse(text)
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(text, [f"select.search.{change}"])


def test_a_target_of_domains_needs_a_validation_split():
    from penstock.pipelines.plan import plan
    from penstock.recipe import Recipe

    text = "name: s\nsource: {files: [a.jsonl]}\nselect: {criteria: {language: {}}, search: {target: {domains: [a]}}}\n"
    assert "search" in [s.name for s in plan(Recipe.parse(text))]
    with pytest.raises(ConfigError, match=r"which splits\.validation 0 leaves empty; raise it, or give target.files"):
        plan(Recipe.parse(text, ["splits.validation=0"]))
    plan(Recipe.parse(text, ["splits.validation=0", "select.search.target={files: t.jsonl}"]))

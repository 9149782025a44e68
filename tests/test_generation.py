"""Making data without a recipe, and its verb: what it makes, says and ends with."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from penstock.dataset import Dataset
from penstock.errors import ConfigError, OtherRecipeError
from penstock.generation import Made, Rounds, check, generate, plan, print_made, steps_of
from penstock.generators.voyager import RoundRecord

FEW = ("voyage.sample=20", "voyage.batch=5", "voyage.patience=3")
FAMILIES = {"procedural": {"families": ["letter_counting", "spell_backward", "gcd"]}, "voyage": {"count": 10}}


@pytest.fixture
def embed(static_folder):
    """Overrides for an embedder that takes no time, and knows no word of most problems."""
    return f"embed.model={{path: {static_folder}}}"


@pytest.mark.parametrize(
    ("settings", "overrides", "words"),
    [
        ({}, ["voyage.anchor=3"], "unknown key voyage.anchor; did you mean anchors?"),
        ({}, ["voyage.anchors=0"], "anchors: got 0, allowed >= 1"),
        ({}, ["voyage.anchors=few"], "voyage.anchors: Input should be a valid integer"),
        ({}, ["embed.modell=static"], "unknown key embed.modell; did you mean model?"),
        ({}, ["embed.characters=0"], "embed.characters: got 0"),
        ({"prompt": {"task": " "}, "model": {"url": "http://a/v1", "model": "m"}}, [], "task: got no text"),
        ({"prompt": {"task": "x"}}, [], "got prompt without a model"),
        ({"model": {"url": "http://me:key@host/v1", "model": "m"}, "prompt": {"task": "x"}}, [], "allowed none"),
        ({"model": {"url": "http://host/v1?key=hush", "model": "m"}, "prompt": {"task": "x"}}, [], "by api_key_env"),
    ],
)
def test_settings_are_checked_before_anything_is_made(settings, overrides, words):
    with pytest.raises(ConfigError) as error:
        plan(settings, overrides)
    assert words in str(error.value)
    assert "hush" not in str(error.value)
    assert "me:key" not in str(error.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "run.json").write_text('{"recipe": "quickstart"}')
    steps = steps_of(*plan(FAMILIES))
    for call in (check, generate):
        with pytest.raises(OtherRecipeError, match="holds a run of recipe 'quickstart'"):
            call(steps, str(tmp_path))


def test_the_verb_makes_as_many_as_wanted_and_says_how(penstock, tmp_path):
    out = tmp_path / "out"
    words = ["generate", "--out", out, "--count", 10, "--family", "letter_counting", "--family", "gcd"]
    words += [part for one in FEW for part in ("--set", one)]
    code, told, live = penstock(*words)
    assert code == 0
    dataset = Dataset(str(out / "generated"))
    assert dataset.read("problems").num_rows == 10
    rounds = dataset.read("rounds").to_pylist()
    assert "By round" in told
    assert "10 of 10 items, Vendi" in told
    assert f"made: {out}/generated" in told
    assert [line for line in live.splitlines() if line.startswith("first sample: ")]
    last = rounds[-1]
    where = "first sample" if last["round"] < 0 else f"round {last['round']}"
    assert f"{where}: 10 of 10 accepted, {last['rate']:.0%} of the last {last['proposed']}, Vendi" in live
    code, planned, _ = penstock(*words, "--dry-run")
    assert code == 0
    assert planned.count("up to date") == 2


def test_the_verb_says_why_there_are_too_few_and_ends_with_1(penstock, embed, tmp_path):
    # the embedder knows no word of these problems, so none has a vector
    words = ["generate", "--out", tmp_path / "out", "--count", 10, "--family", "gcd", "--set", embed]
    words += [part for one in FEW for part in ("--set", one)]
    for _ in range(2):  # made, and found made
        code, told, live = penstock(*words)
        assert code == 1
        assert "0 of 10 items" in told
        assert "embedding" in told
        assert (
            live.count("no item of the first sample can be used (20 proposed; dropped: embedding.no_embedding 20)") == 1
        )


def test_a_server_that_is_not_there_fails_in_seconds_with_its_address(penstock, tmp_path):
    words = ["generate", "Write a line.", "--out", tmp_path, "--url", "http://127.0.0.1:9/v1", "--model", "m"]
    code, told, live = penstock(*words, "--store", tmp_path / "kept.sqlite")
    assert (code, told) == (1, "")
    message = live.splitlines()[-1]
    assert "http://127.0.0.1:9/v1" in message
    assert "penstock models serve PATH" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Write."], "got prompt without a model"),
        (
            ["Write.", "--family", "gcd", "--url", "http://a/v1", "--model", "m"],
            "got procedural and prompt, allowed one",
        ),
        (["--url", "http://a/v1", "--model", "m"], "got a model that nothing asks"),
        (["--family", "gcf"], "families: got 'gcf', nearest known"),
        (["--texts", "x.txt", "--path", "m"], "prefix.start: got none"),
        (["--max-cost", "1", "--prices", "none.yaml"], "prices none.yaml: cannot be read"),
        (["--count", "0"], "count: got 0, allowed >= 1"),
    ],
)
def test_a_wrong_command_is_one_line_and_ends_with_1(penstock, tmp_path, words, message):
    code, told, live = penstock("generate", *words, "--out", tmp_path / "out")
    assert (code, told) == (1, "")
    assert message in live.splitlines()[-1]
    assert "Traceback" not in live


def test_the_line_of_a_round_adds_up_calls_and_cost():
    shown = io.StringIO()
    record = RoundRecord(
        round=3, threshold=0.5, proposed=30, accepted=9, dropped={}, mean_gain=0.4, vendi=7.26, total=39,
        explorers=(), steps=3, calls=9, cost=0.25,
    )  # fmt: skip
    with Rounds(Console(file=shown, width=200), 500) as rounds:
        rounds(record)
        rounds(record)
    line = "round 3: 39 of 500 accepted, 30% of the last 30, Vendi 7.3, {} calls, cost {}"
    assert shown.getvalue().splitlines() == [line.format(9, 0.25), line.format(18, 0.5)]


def test_prices_of_a_file_reach_the_budget(tmp_path):
    from penstock.cli_generate import _prices

    file = tmp_path / "prices.yaml"
    file.write_text(json.dumps({"m": {"prompt": 1, "completion": 2}}))
    config, _ = plan({"prices": _prices(str(file)), "budget": {"max_cost": 0.5}})
    assert config.prices == {"m": {"prompt": 1.0, "completion": 2.0}}
    assert config.budget.max_cost == 0.5


def test_the_table_at_the_end_shows_calls_and_the_last_of_many_rounds():
    rounds = [
        {"round": n, "threshold": None, "proposed": 10, "accepted": 1, "rate": 0.1, "mean_gain": None, "vendi": 2.0 + n}
        | {"calls": 1000 + n}
        for n in range(45)
    ]
    facts = {"accepted": 45, "wanted": 50, "vendi": 46.0, "proposed": 450, "explorers": 3, "calls": 46_000}
    counts = SimpleNamespace(dropped={"selection": {"low_gain": 400, "surplus": 2}, "refusal": {"refusal": 3}})
    manifest = SimpleNamespace(stats={"voyage": facts, "cost": 1.25}, counts=counts, tables={"rounds": None})
    table = SimpleNamespace(to_pylist=lambda: rounds)
    dataset = SimpleNamespace(manifest=manifest, read=lambda name: table, folder=SimpleNamespace(path="/x/generated"))
    shown = io.StringIO()
    print_made(Made(dataset, ()), Console(file=shown, width=120))
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert ["Every", "3", "rounds", "of", "45"] in lines
    numbers = [line[0] for line in lines if line[-1:] and line[-1].startswith("1,0")]
    assert numbers == [*map(str, range(0, 45, 3)), "44"]
    assert [line[:3] for line in lines if line[0] in ("refusal", "selection")] == [
        ["refusal", "refusal", "3"],
        ["selection", "low_gain", "400"],
        ["selection", "surplus", "2"],
    ]
    assert "45 of 50 items, Vendi 46.0, 450 proposed by 3 explorers, 46,000 calls, cost 1.25" in shown.getvalue()

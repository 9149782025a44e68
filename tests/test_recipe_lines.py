"""A recipe that is refused names its file, line and column, or the option that made the mistake."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _recipe_lines
from penstock.errors import ConfigError
from penstock.recipe import Recipe

GOOD = """\
name: mine
seed: 3
source:
  files:
    - {path: a.jsonl, domain: web}
filters:
  gopher_quality:
    min_words: 20
select: {criteria: {length: {weight: 1}}}
train:
  steps: 100
  warmup_steps: 10
  policy: {name: odm, lag: 4}
  prefetch: 2
beside:
  fixed: {policy: null}
"""

SELECT = "select: {criteria: {length: {weight: 1}}}"


def refused(text, *overrides):
    """(message, notes) of the error."""
    with pytest.raises(ConfigError) as error:
        Recipe.parse(text, overrides, where="my.yaml")
    return str(error.value), list(getattr(error.value, "__notes__", []))


def marked(note):
    """(number, line, what stands at the mark) of a note."""
    line, mark = note.split("\n")
    number, _, shown = line.partition(" | ")
    assert set(mark) <= {" ", "^"}
    return int(number), shown, line[mark.index("^") :]


def test_the_recipe_that_the_mistakes_are_put_into_is_right():
    assert Recipe.parse(GOOD).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "place", "message", "at"),
    [
        ("min_words: 20", "min_word: 20", "8:5", "unknown key filters.gopher_quality.min_word;", "min_word: …"),
        ("domain: web}", "domian: web}", "5:23", "unknown key source.files.0.domian; did you mean", "domian: …"),
        ("seed: 3", "seed: three", "2:7", "seed: Input should be a valid integer", "three"),
        ("weight: 1", "weight: -1", "9:38", "select.criteria.length.weight: Input should", "-1}}}"),
        ("seed: 3", "seed: 3\nrounds: 30", "3:9", "rounds: Input should be less than", "30"),
        # sections that check themselves, at any depth
        ("min_words: 20", "min_words: -1", "8:16", "min_words, max_words: got -1", "-1"),
        ("lag: 4", "lag: -4", "13:28", "policy.lag: got -4, allowed", "-4}"),
        ("  steps: 100", "  steps: 0", "11:10", "steps: got 0, allowed", "0"),
        ("domain: web", "format: webb", "5:31", "format: got 'webb', allowed", "webb}"),
        # a key that is not there is told by what it does not go with
        ("steps: 100\n  warmup_steps: 10\n", "steps: 15\n", "11:10", "warmup_steps: got 20, allowed at most", "15"),
        # sections against each other
        (SELECT, "select: null\nrounds: 2", "10:9", "rounds above 1 select by what training saw", "2"),
        ("name: mine", "name: mine\ngroup: {}", "2:1", "group reads vectors: add embed", "group: {}"),
        ("policy: null", "polcy: null", "16:11", "unknown key beside.fixed.polcy; did you mean policy?", "polcy: …"),
        ("policy: null", "steps: 0", "16:18", "beside.fixed.steps: got 0, allowed", "0}"),
        # several words of one name
        ("seed: 3", "seed: 3\nseed: x", "3:7", "seed: Input should be a valid integer", "x"),
    ],
)
def test_a_mistake_names_its_place_and_shows_its_line(old, new, place, message, at):
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    said, notes = refused(text)
    assert said.startswith(f"my.yaml:{place}: {message}")
    assert len(notes) == 1
    line, column = map(int, place.split(":"))
    number, shown, found = marked(notes[0])
    assert (number, found) == (line, at)
    # a line is shown as it stands, but for what follows an unknown key
    assert text.splitlines()[line - 1].startswith(shown.removesuffix(": …"))
    assert shown[column - 1 :] == at


def test_every_mistake_is_told_and_the_first_lines_are_shown():
    text = GOOD.replace("seed: 3", "sede: 3").replace("min_words", "min_word").replace("lag: 4", "lagg: 4")
    said, notes = refused(text.replace("  prefetch: 2", "  prefech: 2"))
    assert [part.split(": ")[0] for part in said.split("; my.yaml")] == ["my.yaml:2:1", ":8:5", ":13:23", ":14:3"]
    assert [marked(note)[0] for note in notes] == [2, 8, 13]


def test_what_is_missing_is_told_at_the_section_that_lacks_it():
    said, notes = refused(GOOD.replace("path: a.jsonl, ", ""))
    assert said.startswith("my.yaml:5:7: source.files.0.path: Field required")
    assert marked(notes[0])[2] == "{domain: web}"
    # the top has no line of its own
    assert refused("name: mine\n") == ("my.yaml: source: Field required", [])


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("name: a\nseed: [1\nb: 2\n", "3:2", "not YAML: while parsing a flow sequence expected ',' or ']', but got"),
        ("name: a\n\tseed: 1\n", "2:1", "not YAML: while scanning for the next token found character '\\t'"),
        ("name: 'a\n", "2:1", "not YAML: while scanning a quoted scalar found unexpected end of stream"),
        ("name: a\r\nseed: \x07\r\n", "2:7", "not YAML: special characters are not allowed (U+0007)"),
        ("name: *x\n", "1:7", "not YAML: found undefined alias 'x'"),
    ],
)
def test_text_that_is_no_yaml_is_told_with_its_line(text, place, message):
    said, notes = refused(text)
    assert said.startswith(f"my.yaml:{place}: {message}")
    assert marked(notes[0])[0] == int(place.split(":")[0])


def test_a_date_that_no_calendar_has_is_no_yaml():
    said, notes = refused("name: 2026-13-45\n")
    assert said == "my.yaml:1:7: not YAML: no timestamp (month must be in 1..12)"
    assert marked(notes[0])[::2] == (1, "2026-13-45")
    assert refused(GOOD, "name=2026-13-45")[0].startswith("--set name=2026-13-45: the value is not YAML: no timestamp")


def test_brackets_without_end_are_told_without_a_line():
    assert refused("[" * 1000) == ("my.yaml: not YAML: lists or mappings are too deep in one another", [])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.stpes=3"], "--set train.stpes=3: unknown key train.stpes; did you mean steps?"),
        (["seed=x"], "--set seed=x: seed: Input should be a valid integer"),
        # the last one holds, and one for a whole section counts for what is in it
        (["seed=1", "seed=x"], "--set seed=x: seed: Input"),
        (["filters={gopher_quality: {min_words: -1}}"], "--set filters={gopher_quality: {min_words: -1}}: min_words,"),
        # a section that no line of the file makes
        (["embed.characters=0"], "--set embed.characters=0: "),
        (["group.clusters=4", "group.iterations=3"], "--set group.clusters=4, --set group.iterations=3: group reads"),
        # the file's line, and the option that it does not go with
        (["train.steps=5"], "my.yaml:12:17: warmup_steps: got 10, allowed at most steps = 5; change it (with --set tr"),
        (["train.warmup_steps=500"], "--set train.warmup_steps=500: warmup_steps: got 500, allowed at most steps = 10"),
        # an option that has nothing to do with it is not named
        (["train.batch_size=2", "seed=9", "rounds=y"], "--set rounds=y: rounds: Input"),
    ],
)
def test_a_mistake_of_an_override_names_the_option(overrides, said):
    told, notes = refused(GOOD, *overrides)
    assert told.startswith(said)
    assert bool(notes) == told.startswith("my.yaml:")


def test_a_mistake_of_the_file_does_not_name_overrides_beside_it():
    said, _ = refused(GOOD.replace("lag: 4", "lag: -4"), "train.steps=50", "train.policy.every=3")
    assert said.startswith("my.yaml:13:28: policy.lag: got -4")
    assert "--set" not in said
    said, _ = refused(GOOD + "quality: {}\n", "quality.rows_per_side=30")
    assert said.startswith("my.yaml:17:1: quality: got neither positive nor model")
    assert "--set" not in said


def test_of_two_wrong_sections_the_one_that_was_refused_is_shown():
    text = "name: a\nsource: {files: x}\ntrain: {steps: 0}\nfilters: {gopher_quality: {min_words: -1}}\n"
    assert refused(text)[0].startswith("my.yaml:4:39: min_words, max_words: got -1")


def test_anchors_and_merged_mappings_are_followed():
    twice = GOOD.replace("train:\n", "train: &t\n").replace("select: {", "splits: *t\nselect: {")
    with pytest.raises(ConfigError, match="undefined alias"):
        Recipe.parse(twice)
    said, notes = refused(GOOD.replace("train:\n", "train: &t\n") + "splits: *t\n")
    assert said.startswith("my.yaml:11:3: unknown key splits.steps; did you mean test?; my.yaml:12:3: unknown")
    said, notes = refused(GOOD.replace("length: {weight: 1}", "length: {<<: {weight: -2}}"))
    assert said.startswith("my.yaml:9:43: select.criteria.length.weight")
    assert marked(notes[0])[2] == "-2}}}}"


def test_a_key_that_was_written_into_a_recipe_is_shown_nowhere():
    secret = "sk-live-0123456789"
    for text in (
        GOOD + f"embed: {{model: {{url: 'http://h/v1', model: m, api_key: {secret}}}}}\n",
        GOOD + f"embed: {{model: {{url: 'http://h/v1', token: '{secret}', model: m, batch_size: 0}}}}\n",
        GOOD + f"embed: {{model: {{url: 'http://h/v1', model: m, api_key_env: '{secret}', batch_size: none}}}}\n",
        GOOD + f"embed: {{model: {{api-key: {secret}, url: [}}}}\n",
    ):
        said, notes = refused(text)
        assert notes
        assert secret not in said + "".join(notes)
    said, notes = refused(GOOD, f"embed.model={{url: 'http://h/v1', model: m, api_key: {secret}}}")
    assert said.startswith("--set embed.model=")
    assert secret not in said


def test_long_lines_are_cut_round_the_mark_and_what_acts_is_made_visible():
    files = ", ".join(["a.txt"] * 100)
    _, notes = refused(f"name: mine # {'x' * 500}\nsource: {{files: [{files}], hub: 3, on_bad_file: '\u202e'}}\n")
    number, shown, at = marked(notes[-1])
    assert number == 2
    assert at.startswith("'⟨U+202E⟩'")
    assert len(shown) < 130
    assert shown.startswith("…")


def test_the_command_line_shows_the_line_before_the_error(tmp_path, capsys, monkeypatch):
    from penstock.cli import main

    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("min_words: 20", "min_words: \u202e-1"))
    monkeypatch.setattr("sys.argv", ["penstock", "recipe", "show", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0] == "    8 |     min_words: ⟨U+202E⟩-1"
    assert lines[1].strip() == "^"
    assert lines[2].startswith(f"penstock: {path}:8:16: filters.gopher_quality.min_words: Input should be a valid")
    assert len(lines) == 3


def test_a_recipe_that_is_right_is_read_once(monkeypatch):
    def never(*_, **__):
        raise AssertionError("read a second time")

    monkeypatch.setattr(_recipe_lines.yaml, "compose", never)
    assert Recipe.parse(GOOD, ["seed=4"]).seed == 4


@settings(max_examples=100, deadline=None)
@given(data=st.data(), lines=st.lists(st.sampled_from(GOOD.splitlines()), max_size=14))
def test_any_recipe_is_read_or_refused_with_a_place_that_exists(data, lines):
    text = "\n".join(lines)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.text("{}[]:,-#&*'\"\t ax1\n", max_size=4)) + text[at:]
    try:
        Recipe.parse(text, where="my.yaml")
    except ConfigError as error:
        for note in getattr(error, "__notes__", []):
            number, _, _ = marked(note)
            assert 1 <= number <= text.count("\n") + 2

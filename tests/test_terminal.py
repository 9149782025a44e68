"""What a run prints: harmless, whole on a narrow terminal, progress apart from results."""

import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from penstock.dataset import Counts
from penstock.recipe import Recipe
from penstock.run import RunResult, check
from penstock.storage import Folder
from penstock.terminal import Terminal, count, plain, print_checks, print_results, print_table, say, table

HOSTILE = "\x1b[31mred\x1b[2J [bold]markup[/bold] :warning: \u202eevil\nnew line\t\udcff"
SHOWN = "⟨ESC⟩[31mred⟨ESC⟩[2J [bold]markup[/bold] :warning: ⟨U+202E⟩evil⟨LF⟩new line⟨TAB⟩⟨U+DCFF⟩"


def terminal(width=80, **options):
    return Console(file=io.StringIO(), width=width, **options)


def printed(console):
    return console.file.getvalue()


def steps(finished, **counts):
    """The finished run's results with numbers of another size."""
    _, _, result = finished
    rows = []
    for row in result.steps:
        step = SimpleNamespace(name=row.step.name, budget=counts.get("budget"))
        manifest = dataclasses.replace(
            row.manifest,
            counts=Counts(counts["rows"], counts["made"], counts["kept"], {"work": {"reason": counts["dropped"]}}),
        )
        rows.append(dataclasses.replace(row, step=step, manifest=manifest, seconds=counts["seconds"]))
    return RunResult(result.root, tuple(rows), "/somewhere/report.html", 83.4)


@pytest.mark.parametrize("force", [False, True], ids=["pipe", "terminal"])
def test_text_from_data_is_shown_and_not_obeyed(force):
    console = terminal(200, force_terminal=force, color_system="truecolor" if force else None)
    say(console, plain(HOSTILE))
    shown = table(("name",), ("n",))
    shown.add_row(plain(HOSTILE), "1")
    print_table(console, HOSTILE, shown)
    text = printed(console)
    for sequence in ("\x1b[1m", "\x1b[0m", "\x1b[3m", "\x1b[1;3m"):  # rich's own bold and italic of titles
        text = text.replace(sequence, "")
    assert text.count(SHOWN) == 3
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_long_text_is_cut_and_ordinary_text_is_kept():
    assert plain("x" * 500).plain == "x" * 399 + "…"
    assert plain("ein Wort, שלום, 日本語, 👩‍👩‍👧", limit=80).plain == "ein Wort, שלום, 日本語, 👩‍👩‍👧"


def test_counts_have_their_plural():
    assert [count(n, "file") for n in (0, 1, 2600)] == ["0 files", "1 file", "2,600 files"]


def test_the_step_table_of_a_quickstart_fits_in_80_columns(finished):
    console = terminal(80)
    rows = steps(finished, rows=99_524, made=13_050, kept=95_579, dropped=13_945, seconds=123.4, budget=120)
    print_results(rows, console)
    lines = printed(console).splitlines()
    assert max(map(len, lines)) <= 80
    header, first = (line.split() for line in lines[1:3])
    assert header == ["step", "status", "rows", "in", "made", "kept", "dropped", "s", "budget", "digest"]
    assert first[:-1] == ["documents", "built", "99,524", "13,050", "95,579", "13,945", "123.4", "120"]
    assert first[-1] == rows.steps[0].manifest.digest[:8]
    assert lines[-2:] == ["1 min 23 s in all", "report: /somewhere/report.html"]
    assert len(lines) == 2 + len(rows.steps) + 2


@pytest.mark.parametrize("width", [20, 80])
def test_numbers_too_wide_for_the_terminal_are_wrapped_by_it_and_never_cut(finished, width):
    console = terminal(width)
    numbers = {"rows": 10**12, "made": 10**11, "kept": 10**12, "dropped": 10**11, "seconds": 98765.4, "budget": 90_000}
    print_results(steps(finished, **numbers), console)
    text = printed(console)
    assert "…" not in text
    assert text.count("1,000,000,000,000  100,000,000,000  1,000,000,000,000") == 13


def test_a_step_without_rows_shows_none_and_budgets_only_where_there_are_some(finished):
    console = terminal(100)
    print_results(dataclasses.replace(finished[2], report=None), console)
    text = printed(console)
    assert "budget" not in text
    assert "report" not in text
    tokenizer = next(line for line in text.splitlines() if line.startswith("tokenizer"))
    assert tokenizer.split()[:2] == ["tokenizer", "built"]
    assert len(tokenizer.split()) == 4  # seconds and digest


def test_a_wide_table_keeps_its_own_width():
    console = terminal(30)
    shown = table(("name",), ("n",), ("digest",))
    shown.add_row("a" * 40, "1,000", "0123abcd")
    print_table(console, "/a/path/" * 10, shown, whole=True)
    assert printed(console).splitlines() == [
        "/a/path/" * 10,
        "name" + " " * 42 + "n  digest  ",
        "a" * 40 + "  1,000  0123abcd",
    ]


def test_words_are_folded_into_the_terminal_and_numbers_stay_whole():
    console = terminal(30)
    shown = table(("name",), ("n",))
    shown.add_row("a" * 40, "1,000")
    print_table(console, "Names", shown)
    assert [line.split() for line in printed(console).splitlines()] == [
        ["Names"],
        ["name", "n"],
        ["a" * 23, "1,000"],
        ["a" * 17],
    ]


def test_a_pass_draws_a_bar_on_a_terminal_and_nothing_on_a_pipe(finished):
    step = finished[2].steps[0].step
    for force, expected in ((False, ""), (True, "read [red]")):
        console = terminal(force_terminal=force)
        with Terminal(console) as shown:
            shown.progress(step, "read [red]", 0, 2)
            shown.progress(step, "read [red]", 1, 2)
            shown.progress(step, "read [red]", 2, 2)
        assert (expected in printed(console)) == force or not force
        assert force or printed(console) == ""


def test_a_reporter_says_each_step_in_a_line_or_two(finished):
    console = terminal()
    result = finished[2].steps[0]
    step = SimpleNamespace(name="documents", budget=60.0)
    with Terminal(console) as shown:
        shown.step_started(step, f"changed: path: {HOSTILE}")
        shown.step_finished(dataclasses.replace(result, seconds=0.25))
        shown.step_finished(dataclasses.replace(result, skipped=True))
        shown.note("starting")
        shown.warn(HOSTILE)
    assert printed(console).splitlines() == [
        f"documents  changed: path: {SHOWN}, budget 60 s",
        f"  0.25 s  kept 228, dropped 15  digest {result.manifest.digest[:8]}",
        "documents  up to date",
        "starting",
        f"warning: {SHOWN}",
    ]


def test_a_dry_run_says_what_would_run_and_why(finished):
    base, recipe, _ = finished

    def dry(overrides, out):
        console = terminal(100)
        changed = Recipe.parse(recipe.to_yaml(), overrides)
        print_checks(changed, Folder(str(out)), check(changed, out=str(out)), 20_000, console)
        return printed(console).splitlines()

    lines = dry([], base / "run")
    size = sum(p.stat().st_size for p in (base / "corpus").iterdir())
    assert lines[0].startswith(f"source files: 3 files, {size / 1000:.0f} kB, ")
    assert int(lines[0].split()[-2]) >= 9  # a split is 20 kB
    assert lines[1] == f"Dry run of small into {base}/run"
    assert lines[2].split() == ["step", "would", "why"]
    assert [line.split() for line in lines[-13:]] == [
        [s.step.name, "skip", "up", "to", "date"] for s in finished[2].steps
    ]

    lines = dry(["filters.gopher_quality.min_words=20", "budgets.documents=9"], base / "run")
    assert any("min_words: 50 -> 20" in line and line.endswith(" 9") for line in lines)
    assert [line.split()[1] for line in lines[-12:]] == ["maybe"] * 12
    assert lines[-12].split() == ["deduplicated", "maybe", "after", "documents,", "if", "changed"]

    lines = dry([], base / "new")
    assert [line.split()[1] for line in lines[-13:]] == ["run"] * 13
    assert not (base / "new").exists()

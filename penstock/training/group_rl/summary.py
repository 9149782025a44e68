"""What a run that learned from groups says in the end: rewards, groups without gradient, pass@k, where the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.training.group_rl.step import PolicyStep

if TYPE_CHECKING:
    from rich.console import Console

    from penstock.run import RunResult
    from penstock.step import StepResult


def print_learned(result: RunResult, console: Console | None = None) -> None:
    """Print what every step that learned from groups did, on stdout; nothing where there is none."""
    for row in result.steps:
        if isinstance(row.step, PolicyStep):
            _print(row, console)


def _print(row: StepResult, console: Console | None) -> None:
    from rich.console import Console

    from penstock.terminal import PATH_CHARACTERS, plain, print_table, say, table

    console = console or Console()
    stats = row.manifest.stats
    shown = table(("objective",), ("questions", "answers", "reward first", "last", "zero gradient"))
    shown.add_row(
        plain(stats["objective"]),
        f"{stats['groups']:,}",
        f"{stats['answers']:,}",
        *(_number(stats["reward"][end]) for end in ("first", "last")),
        _share(stats["zero_gradient"]),
    )
    print_table(console, "Learned from groups", shown, whole=True)
    if stats["passes"]:
        shown = table(("held-out",), ("problems", "pass@", "before", "after"))
        for name, found in sorted(stats["passes"].items()):
            for k in sorted({found["ks"][0], found["ks"][-1]}):
                ends = (found[end][found["ks"].index(k)] for end in ("before", "after"))
                shown.add_row(plain(name), f"{found['problems']:,}", str(k), *map(_share, ends))
        print_table(console, "pass@k, before and after", shown, whole=True)
    config = row.manifest.artifacts["model/config.json"].path
    model = row.folder.join(config).rpartition("/")[0]
    say(console, "model: ", plain(model, PATH_CHARACTERS))


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"

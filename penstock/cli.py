"""The command line: verbs only; each calls one function.

Nothing heavy is imported until a verb needs it, so ``penstock --help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import (
    cli_bytes,
    cli_generate,
    cli_models,
    cli_refresh,
    cli_scoring,
    cli_serve,
    cli_setup,
    cli_tokenizer,
    cli_transform,
    cli_view,
    completion,
)

if TYPE_CHECKING:
    from penstock.pipelines.passes import Engine

app = typer.Typer(
    name="penstock",
    help="Make, choose, tokenise and feed training data for language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")
quality_app = typer.Typer(help="Train quality classifiers.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(quality_app, name="quality")

RecipePath = Annotated[
    Path, typer.Argument(help="Recipe file (YAML).", show_default=False, autocompletion=completion.recipes)
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Override a key: a.b=value (YAML). May be given again.",
        autocompletion=completion.recipe_settings,
    ),
]
Out = Annotated[str | None, typer.Option("--out", help="Folder or URL of the run; default: the recipe's output.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Worker processes at home; default: one a core.")]
SplitMB = Annotated[float, typer.Option(min=0.001, help="Input megabytes a split; changes no output.")]
Runner = Annotated[
    str | None,
    typer.Option(
        help="Beam runner for the passes, e.g. FnApiRunner; default: at home.", autocompletion=completion.runners
    ),
]
RunnerOption = Annotated[list[str], typer.Option(help="Option for the Beam runner, e.g. --job_endpoint=host:port.")]
SharedDisk = Annotated[
    bool, typer.Option("--shared-disk", help="Workers of --runner have this machine's disks at the same paths.")
]
JobFile = Annotated[
    Path | None, typer.Option(help="With --dry-run on DataflowRunner: write the job there, as JSON.", metavar="PATH")
]
Since = Annotated[
    str | None,
    typer.Option(help="An earlier run: keep what was fitted there and take over what did not change.", metavar="RUN"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count inputs and say what would run or be skipped, and why.")]


def _version(value: bool) -> None:
    if value:
        from penstock import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return None


def _go(
    recipe: Path,
    overrides: list[str],
    out: str | None,
    workers: int | None,
    split_mb: float,
    runner: str | None,
    runner_options: list[str],
    dry_run: bool,
    only: list[str] | None,
    flow: bool,
    since: str | None = None,
    objective: str | None = None,
    shared_disk: bool = False,
    job_file: Path | None = None,
) -> None:
    with ExitStack() as stack:
        from penstock.pipelines.engines import beam_engine, describes_a_job, split_bytes

        beam = beam_engine(runner, runner_options, shared_disk=shared_disk)
        of_job = describes_a_job(runner, dry_run=dry_run, job_file=job_file)
        engine: Engine | None = beam
        if engine is None and not dry_run and only != ["model-1"]:
            from penstock.pipelines.home import HomeEngine

            # before anything else is loaded: the workers load at the same time
            engine = stack.enter_context(HomeEngine(workers))
            engine.start()
        from penstock.flows.verbs import datasets_of, models_of, with_objective
        from penstock.recipe import Recipe
        from penstock.run import check, root_of, run
        from penstock.terminal import print_checks, print_results, resumable
        from penstock.training.group_rl.summary import print_learned

        loaded = Recipe.load(recipe, with_objective(overrides, objective))
        if only == ["model-1"]:
            only = models_of(loaded, objective)
        if only == ["dataset-1"]:
            only = datasets_of(loaded)
        size = split_bytes(split_mb)
        root = root_of(loaded, out)
        if beam is not None and of_job:
            from penstock.pipelines.dataflow import dry_run as describe

            describe(beam, loaded, root, only, job_file)
            return
        if beam is not None:
            beam.check(loaded, root, offline=dry_run)
        if dry_run:
            checks = check(loaded, out=out, split_bytes=size, only=only, since=since)
            print_checks(loaded, root, checks, size)
            return
        with resumable() as terminal:
            result = run(
                loaded,
                out=out,
                workers=workers,
                engine=engine,
                reporter=terminal,
                split_bytes=size,
                only=only,
                since=since,
                flow=flow,
            )
    print_results(result)
    print_learned(result)


@app.command()
def run(
    recipe: RecipePath,
    set_: Set = [],
    out: Out = None,
    workers: Workers = None,
    split_mb: SplitMB = 32.0,
    runner: Runner = None,
    runner_option: RunnerOption = [],
    shared_disk: SharedDisk = False,
    since: Since = None,
    dry_run: DryRun = False,
    job_file: JobFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without Prefect: no server, the same datasets.")] = False,
) -> None:
    """Run a recipe to its end: data, tokens, model, rounds, report."""
    _go(
        recipe, set_, out, workers, split_mb, runner, runner_option, dry_run, None, not plain, since,
        shared_disk=shared_disk, job_file=job_file,
    )  # fmt: skip


@app.command()
def build(
    recipe: RecipePath,
    set_: Set = [],
    out: Out = None,
    workers: Workers = None,
    split_mb: SplitMB = 32.0,
    runner: Runner = None,
    runner_option: RunnerOption = [],
    shared_disk: SharedDisk = False,
    since: Since = None,
    dry_run: DryRun = False,
    job_file: JobFile = None,
) -> None:
    """Build the first round's dataset of a recipe; no training."""
    _go(
        recipe, set_, out, workers, split_mb, runner, runner_option, dry_run, ["dataset-1"], False, since,
        shared_disk=shared_disk, job_file=job_file,
    )  # fmt: skip


@app.command()
def train(
    recipe: RecipePath,
    set_: Set = [],
    out: Out = None,
    workers: Workers = None,
    split_mb: SplitMB = 32.0,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Then learn from groups: grpo, dr-grpo, dapo, nft or ta-grpo, in place of the recipe's.",
            autocompletion=completion.objectives,
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Build what the first round's model needs and train it.

    And the models of `beside`, on the same sequences. With --objective it goes on: the model learns from groups of its
    own answers to verified problems (section `group_rl`), and the models beside are left out.
    """
    _go(recipe, set_, out, workers, split_mb, None, [], dry_run, ["model-1"], False, objective=objective)


@app.command()
def inspect(
    folder: Annotated[
        str, typer.Argument(help="A dataset folder or a run folder, by path or URL.", show_default=False)
    ],
    sample: Annotated[int, typer.Option(help="Show this many rows.", min=0)] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its sha256.")] = False,
) -> None:
    """Show what a dataset or a run holds.

    Rows, columns, bytes, tokens by domain, drops by reason, and the datasets it was made from.
    """
    from penstock.inspect import inspect_folder

    inspect_folder(folder, sample=sample, verify=verify)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A run or a dataset, by path or URL.", show_default=False)],
    b: Annotated[str, typer.Argument(help="The one to compare it with.", show_default=False)],
    sample: Annotated[int, typer.Option(help="Show this many rows of each kind that differ.", min=0)] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what changed between two runs or two datasets.

    Rows, domains, drops, settings and inputs. Ends with 0 when they are the same, 1 when not, 2 when they cannot be
    compared, as diff does.
    """
    import json

    from penstock.diff import diff as compare
    from penstock.diff_print import print_changes
    from penstock.errors import PenstockError
    from penstock.terminal import Terminal

    try:
        with Terminal() as terminal:
            found = compare(a, b, sample=sample, progress=terminal.bar)
    except PenstockError as error:
        _complain(error)
        raise typer.Exit(2) from error
    if json_:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        print_changes(found)
    raise typer.Exit(0 if found.same else 1)


@app.command()
def push(
    folder: Annotated[str, typer.Argument(help="A published dataset, or a run: its last one.", show_default=False)],
    dest: Annotated[
        str, typer.Argument(help="hf://datasets/ORG/NAME[@BRANCH], s3://…, gs://… or a folder.", show_default=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent and removed.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the older version's files (not on the Hub).")] = False,
    create: Annotated[bool, typer.Option("--create", help="Make the repository or branch on the Hub.")] = False,
    private: Annotated[bool, typer.Option("--private", help="With --create: a private repository.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch on the Hub; default: main.")] = None,
) -> None:
    """Send a published dataset to a store, a folder or the Hub.

    Readers of DEST see the older version or the new one, never a part. A push that was cut short is run again.
    """
    from penstock.push import push as send
    from penstock.terminal import print_pushed, resumable

    with resumable("what was sent", "go on") as terminal:
        result = send(
            folder,
            dest,
            dry_run=dry_run,
            keep=keep,
            create=create,
            private=private,
            branch=branch,
            progress=terminal.bar,
        )
    print_pushed(result)


@app.command()
def export(
    sequences: Annotated[
        str, typer.Argument(help="Packed sequences, or a run: those of its first round.", show_default=False)
    ],
    prefix: Annotated[Path, typer.Argument(help="Beginning of the files' paths.", show_default=False)],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    dtype: Annotated[str, typer.Option(help="Type of the ids: auto, uint16, int32 or int64.")] = "auto",
    drop_loss_mask: Annotated[
        bool, typer.Option("--drop-loss-mask", help="Write tokens that are not to be learned as all others.")
    ] = False,
) -> None:
    """Write packed sequences for Megatron-LM.

    Indexed datasets PREFIX-DOMAIN.bin and .idx; the prefixes are what its --data-path takes.
    """
    from penstock.export import export_sequences
    from penstock.terminal import print_exported

    print_exported(export_sequences(sequences, prefix, split=split, dtype=dtype, drop_loss_mask=drop_loss_mask))


@app.command()
def select(
    pool: Annotated[str, typer.Argument(help="A run, a dataset, or files to choose from.", show_default=False)],
    target: Annotated[list[str], typer.Option(help="Files of texts like those you want; again for more.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the selection.")],
    by: Annotated[
        list[str],
        typer.Option(
            help="importance, diverse, loss, less, mona; again for more.", autocompletion=completion.selection_methods
        ),
    ] = [],
    fraction: Annotated[float | None, typer.Option(help="Share of the pool's documents.", metavar="SHARE")] = None,
    count: Annotated[int | None, typer.Option(help="Documents to select.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to select.")] = None,
    model: Annotated[str | None, typer.Option(help="Causal LM of less, mona and loss: a folder or a run.")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", help="A setting: METHOD.KEY=VALUE, embed.KEY=… or columns.text=NAME.")
    ] = [],
    tokenizer: Annotated[str | None, typer.Option(help="tokenizer.json, for a pool without token counts.")] = None,
    overlap: Annotated[str, typer.Option(help="Pool rows that are in the target: drop or refuse.")] = "drop",
    workers: Workers = None,
    split_mb: SplitMB = 32.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run or be skipped, and why.")] = False,
) -> None:
    """Choose documents that are like a target set.

    Every method scores the whole pool and chooses as much as is asked for; random and bm25 are always among them. The
    table at the end compares them.
    """
    from penstock.flows.choosing import select as choose
    from penstock.flows.choosing import select_steps
    from penstock.pipelines.engines import split_bytes
    from penstock.selection import check, print_planned, print_selected
    from penstock.terminal import resumable

    given = (fraction, count, tokens, model, set_, tokenizer, overlap)
    if dry_run:
        print_planned(check(select_steps(pool, target, by, *given)[0], out, split_bytes(split_mb)), out)
        return
    with resumable() as terminal:
        result = choose(pool, target, out, by, *given, workers=workers, split_mb=split_mb, reporter=terminal)
    print_selected(result)


cli_refresh.add_to(app)
cli_generate.add_to(app)
cli_transform.add_to(app)
cli_scoring.add_to(app)
cli_bytes.add_to(app)
cli_tokenizer.add_to(app)
cli_models.add_to(app)
cli_setup.add_to(app)
cli_serve.add_to(app)
cli_view.add_to(app)


@app.command()
def report(
    recipe: RecipePath,
    set_: Set = [],
    out: Out = None,
) -> None:
    """Write report.html of a run again from its datasets."""
    from penstock.recipe import Recipe
    from penstock.run import report_again

    typer.echo(report_again(Recipe.load(recipe, set_), out=out))


@quality_app.command("train")
def quality_train(
    positive: Annotated[list[str], typer.Option(help="Files of good texts, as sources read them; again for more.")],
    negative: Annotated[list[str], typer.Option(help="Files of poor texts; again for more.")],
    out: Annotated[str, typer.Option(help="Folder of the classifier.")],
    text_column: Annotated[str | None, typer.Option(help="Column of the text in files; default: text.")] = None,
    rows: Annotated[int, typer.Option(min=20, help="Most documents a side.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the held-out fifth.")] = 0,
) -> None:
    """Train a quality classifier on files.

    For recipes: quality: {model: DIR}. A fifth of each side is held out, and measured.
    """
    from penstock.pipelines.criteria import train_quality
    from penstock.terminal import print_trained

    print_trained(train_quality(positive, negative, out, text_column=text_column, rows_per_side=rows, seed=seed))


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes."""
    import json

    from penstock.recipe_schema import recipe_schema as schema

    typer.echo(json.dumps(schema(), indent=1))


@recipe_app.command("show")
def recipe_show(recipe: RecipePath, set_: Set = []) -> None:
    """Print a recipe with every default and override written out."""
    from penstock.recipe import Recipe

    typer.echo(Recipe.load(recipe, set_).to_yaml(), nl=False)


def _complain(error: Exception) -> None:
    """One line on stderr, whatever a parser's message looks like, and nothing in it that a terminal would obey.

    The lines of a recipe that are at fault come before it.
    """
    from penstock.report.text import visible
    from penstock.storage import without_users

    for note in getattr(error, "__notes__", ()):
        print(visible(note), file=sys.stderr)
    said = " ".join(line.strip() for line in without_users(str(error)).splitlines())
    print("penstock:", visible(said), file=sys.stderr)


def main() -> None:
    """Entry point: user errors are one line on stderr and exit code 1."""
    from penstock.errors import PenstockError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 still shows every name
    try:
        app(prog_name="penstock")
    except PenstockError as error:
        _complain(error)
        sys.exit(1)

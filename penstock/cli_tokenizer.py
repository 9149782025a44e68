"""The verbs that build and measure tokenizers: ``penstock tokenizer``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

tokenizer_app = typer.Typer(help="Build and measure tokenizers.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[
    list[str], typer.Argument(help="Datasets or runs of penstock, or files that sources read.", show_default=False)
]
Out = Annotated[str, typer.Option(help="Folder or URL for what is made.")]
Weight = Annotated[list[str], typer.Option(help="Share of a domain: NAME=NUMBER; again for more. Others are left out.")]
LanguageWeight = Annotated[list[str], typer.Option(help="Share of a language: NAME=NUMBER; again for more.")]
SampleMB = Annotated[float, typer.Option(min=0.000001, help="UTF-8 megabytes of text to sample.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sample.")]
TextColumn = Annotated[
    list[str], typer.Option(help="Column of the text in files; several are domains named as the columns.")
]
DomainColumn = Annotated[str | None, typer.Option(help="Column of the domain in files.")]
TextUnit = Annotated[str, typer.Option(help="What a text of plain files is: file, paragraph, line.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Format of files whose extension does not tell: text, jsonl, …")
]
Split = Annotated[str, typer.Option(help="Split of datasets to read: train, validation, test or all.")]
Tokenizer = Annotated[str, typer.Argument(help="A tokenizer.json, or a folder with one.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` these verbs."""
    app.add_typer(tokenizer_app, name="tokenizer")


@tokenizer_app.command("train")
def train(
    data: Data,
    out: Out,
    vocabulary_size: Annotated[int, typer.Option(help="Tokens, all bytes and special tokens among them.")] = 32_768,
    min_frequency: Annotated[int, typer.Option(help="Least count of a pair that is merged.")] = 2,
    digits: Annotated[
        str, typer.Option(help="Group digits by three from the left or the right: left-to-right, right-to-left.")
    ] = "left-to-right",
    special: Annotated[list[str], typer.Option(help="Text that becomes one token; again for more.")] = [],  # noqa: B006
    weight: Weight = [],  # noqa: B006
    language_weight: LanguageWeight = [],  # noqa: B006
    sample_mb: SampleMB = 256.0,
    seed: Seed = 0,
    text_column: TextColumn = [],  # noqa: B006
    domain_column: DomainColumn = None,
    text_unit: TextUnit = "file",
    format_: Format = None,
    split: Split = "train",
) -> None:
    """Train a byte-level BPE tokenizer.

    On a sample with the shares that the weights say. The table at the end shows what it makes of each part.
    """
    from penstock.flows.tokenizing import train_tokenizer
    from penstock.tokenization.building import weights
    from penstock.tokenization.tables import print_sample

    made = train_tokenizer(
        data,
        out,
        vocabulary_size=vocabulary_size,
        min_frequency=min_frequency,
        digits=digits,
        special=special,
        weight=weights(weight, "--weight"),
        language_weight=weights(language_weight, "--language-weight"),
        sample_mb=sample_mb,
        seed=seed,
        text_column=text_column,
        domain_column=domain_column,
        text_unit=text_unit,
        format=format_,
        split=split,
    )
    print_sample(made.sample, made.tokenizer, made.files)


@tokenizer_app.command("extend")
def extend(
    tokenizer: Tokenizer,
    data: Data,
    out: Out,
    vocabulary_size: Annotated[int, typer.Option(help="Tokens afterwards, those there are among them.")],
    min_frequency: Annotated[int, typer.Option(help="Least count of a pair that is merged.")] = 2,
    superbpe: Annotated[
        bool, typer.Option("--superbpe", help="Let new merges join words: SuperBPE's second stage.")
    ] = False,
    max_words: Annotated[
        int | None, typer.Option(help="With --superbpe: words of a token at most; default: 4.")
    ] = None,
    weight: Weight = [],  # noqa: B006
    language_weight: LanguageWeight = [],  # noqa: B006
    sample_mb: SampleMB = 256.0,
    seed: Seed = 0,
    text_column: TextColumn = [],  # noqa: B006
    domain_column: DomainColumn = None,
    text_unit: TextUnit = "file",
    format_: Format = None,
    split: Split = "train",
) -> None:
    """Add merges learned from new text to a byte-level BPE tokenizer.

    Ids that there are stay, new ones follow. With --superbpe new tokens may reach over words.
    """
    from penstock.flows.tokenizing import extend_tokenizer
    from penstock.tokenization.building import weights
    from penstock.tokenization.tables import print_sample

    made = extend_tokenizer(
        tokenizer,
        data,
        out,
        vocabulary_size,
        min_frequency=min_frequency,
        superbpe=superbpe,
        max_words=max_words,
        weight=weights(weight, "--weight"),
        language_weight=weights(language_weight, "--language-weight"),
        sample_mb=sample_mb,
        seed=seed,
        text_column=text_column,
        domain_column=domain_column,
        text_unit=text_unit,
        format=format_,
        split=split,
    )
    print_sample(made.sample, made.tokenizer, made.files)


@tokenizer_app.command("prune")
def prune(
    tokenizer: Tokenizer,
    data: Data,
    out: Out,
    min_count: Annotated[int, typer.Option(help="Drop tokens that the sample uses less often.")] = 1,
    size: Annotated[int | None, typer.Option(help="Tokens to keep at most, the most used.")] = None,
    weight: Weight = [],  # noqa: B006
    language_weight: LanguageWeight = [],  # noqa: B006
    sample_mb: SampleMB = 256.0,
    seed: Seed = 0,
    text_column: TextColumn = [],  # noqa: B006
    domain_column: DomainColumn = None,
    text_unit: TextUnit = "file",
    format_: Format = None,
    split: Split = "train",
) -> None:
    """Take tokens that a sample does not use out of a BPE tokenizer.

    Every text still decodes to itself. old_ids.npy says which rows of an embedding table stay.
    """
    from penstock.flows.tokenizing import prune_tokenizer
    from penstock.tokenization.building import weights
    from penstock.tokenization.tables import print_pruned

    made = prune_tokenizer(
        tokenizer,
        data,
        out,
        min_count=min_count,
        size=size,
        weight=weights(weight, "--weight"),
        language_weight=weights(language_weight, "--language-weight"),
        sample_mb=sample_mb,
        seed=seed,
        text_column=text_column,
        domain_column=domain_column,
        text_unit=text_unit,
        format=format_,
        split=split,
    )
    assert made.pruned is not None
    print_pruned(made.pruned, made.tokenizer, made.files)


@tokenizer_app.command("compare")
def compare(
    tokenizers: Annotated[
        list[str], typer.Argument(help="tokenizer.json files or folders, each PATH or NAME=PATH.", show_default=False)
    ],
    data: Annotated[list[str], typer.Option(help="Datasets, runs or files of texts; again for more.")],
    out: Annotated[str | None, typer.Option(help="Folder or URL for the JSON and the page.")] = None,
    by: Annotated[str, typer.Option(help="Group by domain or language.")] = "domain",
    parallel: Annotated[
        str | None, typer.Option(help="The groups are translations: measure parity against this one.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Tokenizer that NSL is measured against.")] = None,
    lexicon: Annotated[
        list[str], typer.Option(help="Words for %TR and %Pure: FILE, or GROUP=FILE; again for more.")
    ] = [],  # noqa: B006
    alpha: Annotated[float, typer.Option(help="Order of Rényi entropy.")] = 2.5,
    sample_mb: Annotated[float | None, typer.Option(help="Megabytes of each group at most.", min=0.000001)] = None,
    seed: Seed = 0,
    text_column: TextColumn = [],  # noqa: B006
    domain_column: DomainColumn = None,
    text_unit: TextUnit = "file",
    format_: Format = None,
    split: Split = "all",
) -> None:
    """Measure tokenizers on the same texts.

    Fertility, bytes a token, parity, Gini, Rényi, STRR, lexicon share and purity, NSL, speed; by domain or language,
    each with its conventions.
    """
    from penstock.flows.tokenizing import compare_tokenizers
    from penstock.terminal import Terminal
    from penstock.tokenization.building import named, tokenizer_names
    from penstock.tokenization.compare import ALL
    from penstock.tokenization.tables import print_comparison

    with Terminal() as terminal:
        found, written = compare_tokenizers(
            tokenizer_names(tokenizers),
            data,
            out,
            by=by,
            parallel=parallel,
            reference=reference,
            lexicon=named([one if "=" in one else f"{ALL}={one}" for one in lexicon], "--lexicon"),
            alpha=alpha,
            sample_mb=sample_mb,
            seed=seed,
            text_column=text_column,
            domain_column=domain_column,
            text_unit=text_unit,
            format=format_,
            split=split,
            progress=terminal.bar,
        )
    print_comparison(found, written)


@tokenizer_app.command("infer-mixture")
def infer_mixture(
    tokenizer: Tokenizer,
    data: Data,
    out: Annotated[str | None, typer.Option(help="Folder or URL for the JSON.")] = None,
    by: Annotated[str, typer.Option(help="A category is a domain or a language.")] = "domain",
    category: Annotated[
        list[str], typer.Option(help="A category; all that are not named go into other. Default: each one.")
    ] = [],  # noqa: B006
    merges: Annotated[int, typer.Option(help="Merges to explain, from the first.")] = 300,
    unit: Annotated[str, typer.Option(help="What sizes are counted in: pairs or bytes.")] = "pairs",
    sample_mb: Annotated[float, typer.Option(min=0.000001, help="Megabytes of each category at most.")] = 10.0,
    seed: Seed = 0,
    text_column: TextColumn = [],  # noqa: B006
    domain_column: DomainColumn = None,
    text_unit: TextUnit = "file",
    format_: Format = None,
    split: Split = "all",
) -> None:
    """Estimate what a BPE tokenizer was trained on.

    From the order of its merges, by a linear program (arXiv 2407.16607): shares of the categories of the given texts,
    in pairs of symbols and in bytes.
    """
    from penstock.flows.tokenizing import infer_tokenizer_mixture
    from penstock.terminal import Terminal
    from penstock.tokenization.tables import print_mixture

    with Terminal() as terminal:
        found, written = infer_tokenizer_mixture(
            tokenizer,
            data,
            out,
            by=by,
            category=category,
            merges=merges,
            unit=unit,
            sample_mb=sample_mb,
            seed=seed,
            text_column=text_column,
            domain_column=domain_column,
            text_unit=text_unit,
            format=format_,
            split=split,
            progress=terminal.bar,
        )
    print_mixture(found, written)


@tokenizer_app.command("hypernet")
def hypernet(
    model: Annotated[str, typer.Argument(help="Local folder of a causal LM, or a run.", show_default=False)],
    data: Data,
    out: Annotated[str, typer.Option(help="Folder of checkpoints and of the network.")],
    steps: Annotated[int | None, typer.Option(help="Steps of the language stage; default: 200,000.")] = None,
    identity_steps: Annotated[int | None, typer.Option(help="Steps of the stage before it; default: 10,000.")] = None,
    sample_mb: SampleMB = 256.0,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    set_: Annotated[
        list[str], typer.Option("--set", help="Another setting: batch=32, shape.hidden=256, sampler.size=8192; again.")
    ] = [],  # noqa: B006
) -> None:
    """Train a network that gives embeddings to new tokens (ZeTT).

    For any vocabulary over the model's bytes. A stopped run resumes; the table at the end shows nats a byte on held-out
    texts beside composed rows and the model's own tokenizer.
    """
    from penstock.terminal import Terminal
    from penstock.tokenization.building import hypernet_config
    from penstock.tokenization.dynamic.hypernet_training import train_hypernet
    from penstock.tokenization.tables import print_facts

    given = {"steps": steps, "identity_steps": identity_steps}
    settings = {
        "model": model,
        "texts": tuple(data),
        "output": out,
        "text_bytes": max(1, int(sample_mb * 1e6)),
        "seed": seed,
        "device": device,
        **{name: value for name, value in given.items() if value is not None},
    }
    config = hypernet_config(settings, set_)
    with Terminal() as terminal:
        found = train_hypernet(config, lambda now: terminal.bar(now.stage, now.step, now.steps))
    facts = {
        "nats a byte, this network": f"{found.nats_per_byte:.4f}",
        "nats a byte, composed rows": f"{found.composed_nats_per_byte:.4f}",
        "nats a byte, the model's own tokenizer": f"{found.base_nats_per_byte:.4f}",
        "held-out tokens": found.tokens,
        "held-out tokens, own tokenizer": found.base_tokens,
    }
    print_facts("Held-out texts, cut by a tokenizer drawn from them", facts, [found.folder])

"""A full, realistic run record from seeded numbers. To look at its page: python tests/report/conftest.py OUT.html"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from penstock import seeding
from penstock.refreshing.ledger import Files, HeldOut, Made, Round
from penstock.report.record import (
    Amount,
    AnswerSample,
    AskedRecord,
    Candidate,
    ContaminatedSample,
    ContaminationRecord,
    CoverageRow,
    CriterionChoice,
    Curve,
    Distribution,
    DistributionGroup,
    DomainChange,
    DomainPoint,
    DroppedSample,
    EdgeDocument,
    GenerationRecord,
    GroupRecord,
    KeptSample,
    LongToken,
    Machine,
    MadeMap,
    MadeSample,
    MapRecord,
    MixtureRecord,
    MovedDocument,
    Outcome,
    Parent,
    PassRecord,
    PolicyRecord,
    ProxyPoint,
    RefreshRecord,
    RoundChange,
    RunRecord,
    SearchRecord,
    SeenDocument,
    SeenRecord,
    SelectionRecord,
    SourceRecord,
    Stage,
    StepRecord,
    ThetaDomain,
    TokenizerDomain,
    TokenizerRecord,
    TrainingRecord,
    TransformReward,
    TransformRow,
    VariantsRecord,
    VoyageRecord,
    VoyageRound,
)

DOMAINS = ("library docs", "docstrings", "source code", "package readmes", "licences", "tests")
HOSTILE = '</pre></svg><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'


def random(*path: str) -> np.random.Generator:
    return seeding.stream(7, "report", *path)


def make_stages() -> tuple[Stage, ...]:
    rows = 0
    out = []
    for name, made in (("environment", 58_214), ("procedural", 6_000)):
        out.append(Stage(name=name, step="documents", rows_in=rows, rows_made=made, rows_kept=rows + made))
        rows += made
    for name, step, reasons in (
        ("clean", "documents", {"invalid_utf8": 17, "empty": 204}),
        ("language", "documents", {"not_english": 2_911}),
        (
            "gopher",
            "documents",
            {"too_few_words": 9_870, "symbol_ratio": 1_203, "few_stop_words": 4_402, "bullet_lines": 318},
        ),
        ("exact_duplicates", "deduplicated", {"duplicate": 7_655}),
        ("quality", "scored", {"low_quality": 5_120}),
        ("quadmix", "selection-2", {"not_selected": 12_944}),
    ):
        kept = rows - sum(reasons.values())
        out.append(Stage(name=name, step=step, rows_in=rows, rows_made=0, rows_kept=kept, reasons=reasons))
        rows = kept
    return tuple(out)


def make_steps() -> tuple[StepRecord, ...]:
    def step(name, rows_in, made, kept, seconds, budget, parents=(), tokens=None, status="run", **parameters):
        hexadecimal = random("hex", name).bytes(32).hex()
        return StepRecord(
            name=name,
            status=status,
            rows_in=rows_in,
            rows_made=made,
            rows_kept=kept,
            rows_dropped=rows_in + made - kept,
            tokens=tokens,
            seconds=seconds,
            budget_seconds=budget,
            key=hexadecimal[:32],
            digest=hexadecimal[32:],
            parents=tuple(Parent(name=p, digest=random("hex", p).bytes(32).hex()[32:]) for p in parents),
            parameters=parameters,
        )

    return (
        step("documents", 0, 64_214, 45_289, 41.7, 60.0, dropped="sample", languages=["en"], gopher={"min_words": 50}),
        step("deduplicated", 45_289, 0, 37_634, 6.2, 15.0, ["documents"], status="run"),
        step("tokenizer", 37_634, 0, 37_634, 0.0, 30.0, ["deduplicated"], status="skipped", vocabulary=8192),
        step("quality", 37_634, 0, 37_634, 9.8, 20.0, ["deduplicated", "reference-set"], positives="library docs"),
        step("scored", 37_634, 0, 32_514, 14.1, 20.0, ["deduplicated", "tokenizer", "quality"], tokens=18_402_118),
        step("selection-1", 32_514, 0, 20_118, 2.4, 5.0, ["scored"], tokens=9_120_400, target_tokens=9_000_000),
        step("sequences-1", 20_118, 0, 20_118, 3.9, 10.0, ["selection-1", "tokenizer"], tokens=9_120_400, length=512),
        step(
            "model-1", 17_813, 0, 17_813, 131.0, 120.0, ["sequences-1"], tokens=6_144_000, steps=750, learning_rate=1e-3
        ),
        step(
            "selection-2", 32_514, 0, 19_570, 2.6, 5.0, ["scored", "model-1"], tokens=9_088_211, target_tokens=9_000_000
        ),
        step("sequences-2", 19_570, 0, 19_570, 3.8, 10.0, ["selection-2", "tokenizer"], tokens=9_088_211, length=512),
        step(
            "model-2", 17_750, 0, 17_750, 118.3, 120.0, ["sequences-2"], tokens=6_144_000, steps=750, learning_rate=1e-3
        ),
    )


def make_points() -> tuple[DomainPoint, ...]:
    rows = dict(zip(DOMAINS, (9_120, 21_480, 14_300, 1_902, 2_812, 14_600), strict=True))
    points = []
    for name, keep in (
        ("sources", (1.0,) * 6),
        ("cleaned", (0.81, 0.52, 0.66, 0.74, 0.21, 0.49)),
        ("selected, round 1", (0.71, 0.22, 0.41, 0.66, 0.04, 0.17)),
        ("selected, round 2", (0.62, 0.30, 0.52, 0.58, 0.01, 0.12)),
    ):
        held = {}
        for (domain, n), share, width in zip(rows.items(), keep, (3100, 820, 2750, 2200, 5300, 1900), strict=True):
            kept = int(n * share)
            held[domain] = Amount(rows=kept, bytes=kept * width, tokens=int(kept * width / 3.71))
        points.append(DomainPoint(name=name, domains=held))
    return tuple(points)


def make_distributions() -> tuple[Distribution, ...]:
    def groups(draw, edges):
        out = []
        for i, domain in enumerate(DOMAINS):
            values = draw(random("values", domain, str(len(edges))), i)
            taken = random("taken", domain).random(len(values)) < np.clip(
                (values - edges[0]) / (np.median(values) * 2), 0.05, 0.9
            )
            counts = [tuple(int(n) for n in np.histogram(values[m], edges)[0]) for m in (taken, ~taken)]
            out.append(DistributionGroup(domain=domain, selected=counts[0], not_selected=counts[1]))
        return tuple(out)

    lengths, scores = np.geomspace(64, 262_144, 37), np.linspace(0, 1, 41)
    return (
        Distribution(
            title="Length",
            unit="bytes",
            scale="log",
            edges=tuple(float(e) for e in lengths),
            groups=groups(lambda r, i: np.exp(r.normal(6.4 + 0.35 * i, 1.0, 5_000)), lengths),
        ),
        Distribution(
            title="Quality score",
            unit="",
            scale="linear",
            edges=tuple(float(e) for e in scores),
            groups=groups(lambda r, i: r.beta(1.5 + i, 4 - 0.4 * i, 5_000), scores),
        ),
    )


def make_mixture() -> MixtureRecord:
    """Eight versions in which the first domain grows at the cost of all others."""
    grown = np.linspace(1 / len(DOMAINS), 0.6, 8)
    others = (1 - grown) / (len(DOMAINS) - 1)
    return MixtureRecord(
        policy="dga",
        sequences_a_step=32,
        target=DOMAINS[:1],
        effective_from=(0, *((108 + 100 * i) * 32 for i in range(7))),
        weights={d: tuple(float(x) for x in (grown if i == 0 else others)) for i, d in enumerate(DOMAINS)},
    )


def make_seen() -> SeenRecord:
    return SeenRecord(
        documents=41_200,
        visits={"1": 38_000, "2": 3_100, "3 to 4": 100},
        samples=(
            SeenDocument(
                doc_id="docs/guide.md#4",
                domain="library docs",
                steps=(3, 411),
                visits=2,
                first_loss=5.5,
                last_loss=3.25,
            ),
            SeenDocument(
                doc_id=f"{HOSTILE}#1", domain="tests", steps=tuple(range(12)), visits=40, first_loss=6.0, last_loss=4.5
            ),
        ),
    )


def make_training(number: int, drop: float, name: str = "") -> TrainingRecord:
    steps = tuple(range(1, 751))
    x = np.arange(750)
    noise = random("loss", str(number)).normal(0, 0.12, 750)
    loss = 3.3 - drop + 5.7 * np.exp(-x / 90) + noise * (0.4 + np.exp(-x / 100))
    rate = np.where(x < 50, (x + 1) / 50, 0.1 + 0.45 * (1 + np.cos(np.pi * (x - 50) / 700))) * 1e-3
    speed = 52_000 + 4_000 * number + random("speed", str(number)).normal(0, 1_500, 750)
    at = tuple(range(75, 751, 75))
    return TrainingRecord(
        round=number,
        name=name,
        model="Llama, 4 layers, width 256, 8 heads",
        parameters=6_294_784,
        device="cuda",
        steps=750,
        tokens=6_144_000,
        seconds=131.0 if number == 1 else 118.3,
        train_loss=Curve(steps=steps, values=tuple(float(v) for v in loss)),
        learning_rate=Curve(steps=steps, values=tuple(float(v) for v in rate)),
        tokens_per_second=Curve(steps=steps, values=tuple(float(v) for v in speed)),
        validation_loss={
            domain: Curve(
                steps=at,
                values=tuple(float(3.1 + 0.14 * i - drop * (i % 3) / 2 + 4.6 * np.exp(-s / 110)) for s in at),
            )
            for i, domain in enumerate(DOMAINS)
        },
        domain_loss={DOMAINS[0]: Curve(steps=steps, values=tuple(float(v) - 0.2 for v in loss))},
        target_loss=Curve(steps=at, values=tuple(float(3.0 - drop + 4.6 * np.exp(-s / 110)) for s in at)),
        effective_samples=Curve(steps=at, values=tuple(1.0 if s < 200 else 0.84 for s in at)),
        mixture=make_mixture(),
        seen=make_seen(),
    )


def make_change() -> RoundChange:
    before, after = make_points()[2:]
    return RoundChange(
        before=1,
        after=2,
        domains=tuple(
            DomainChange(
                domain=domain,
                tokens_before=before.domains[domain].tokens or 0,
                tokens_after=after.domains[domain].tokens or 0,
                excess_loss=(-0.081, 0.034, 0.127, -0.022, None, -0.058)[i],
                copies_up=(112, 1_904, 2_310, 40, 0, 77)[i],
                copies_down=(930, 210, 102, 201, 88, 803)[i],
                validation_before=3.102 + 0.14 * i,
                validation_after=3.102 + 0.14 * i - 0.06 * (i % 3),
            )
            for i, domain in enumerate(DOMAINS)
        ),
        moved=tuple(
            MovedDocument(
                doc_id=f"lib/python3.11/{name}.py#{i * 37}",
                domain=DOMAINS[i % 3],
                copies_before=before,
                copies_after=after,
                excess_loss=loss,
                text=f"def {name}(value):\n    '''Return the {name} of a value, as a new object.'''",
            )
            for i, (name, before, after, loss) in enumerate(
                [
                    ("encode", 0, 4, 0.914),
                    ("parse_dates", 0, 3, 0.722),
                    ("legal", 4, 1, -0.510),
                    ("merge", 1, 3, 0.481),
                    ("stub", 2, 0, None),
                ]
            )
        ),
    )


def make_selection(number: int) -> SelectionRecord:
    return SelectionRecord(
        round=number,
        budget_factor=1.25,
        criteria=tuple(
            CriterionChoice(
                criterion=name,
                domain=domain,
                kept=900 - 100 * i,
                lost=300 + 100 * i,
                unscored=7 * i,
                mean_kept=0.75 - 0.05 * i if name == "quality" else None,
                mean_lost=0.25 + 0.05 * i,
            )
            for i, domain in enumerate(DOMAINS)
            for name in ("perplexity", "quality")
        ),
        theta=tuple(
            ThetaDomain(
                domain=domain,
                weights={"quality": 0.75, "perplexity": 0.25},
                lam=31.6 * (i + 1),
                omega=0.6,
                eta=0.5,
                eps=0.0004,
                multiplier=None if i == 0 else 0.5 * i,
            )
            for i, domain in enumerate(DOMAINS)
        ),
        edge=(
            EdgeDocument(
                doc_id="docs/guide.md#4",
                domain=DOMAINS[0],
                rank=0.5991,
                omega=0.6,
                copies=1,
                text="An iterator ends once.",
                scores={"quality": 0.51},
            ),
            EdgeDocument(doc_id="web/x#1", domain=DOMAINS[1], rank=0.6004, omega=0.6, copies=0, text=HOSTILE),
        ),
    )


def make_search() -> SearchRecord:
    rng = random("proxies")
    measured = 4.0 + rng.normal(0, 0.2, 40)
    return SearchRecord(
        method="evolution",
        proxy="ngram, order 3",
        proxies=41,
        diverged=1,
        target=("library docs", "package readmes"),
        claim=True,
        why="The predicted winner gains 0.120 over the best measured one, more than the noise allows for.",
        facts={"R2": 0.81, "spearman": 0.9, "residual": 0.08},
        candidates=(
            Candidate(name="predicted winner", predicted=3.5, first=None, again=(3.6, 3.62), chosen=True),
            Candidate(name="measured, rank 1", predicted=3.6, first=3.55, again=(3.7, 3.74), chosen=False),
            Candidate(name="natural", predicted=None, first=None, again=(), chosen=False),
        ),
        points=tuple(
            ProxyPoint(measured=float(m), predicted=float(m + e))
            for m, e in zip(measured, rng.normal(0, 0.1, 40), strict=True)
        ),
        importances={f"{d}.omega": 0.5 / 2**i for i, d in enumerate(DOMAINS)},
    )


GROUPS = ("iterator-method-object", "license-copyright-warranty", "assert-test-equal", "whale-ship-sea")


def make_groups() -> tuple[GroupRecord, ...]:
    return tuple(
        GroupRecord(
            name=name,
            rows=9_000 - 2_100 * i,
            bytes=15_000_000 - 3_000_000 * i,
            similarity=0.81 - 0.07 * i,
            terms=(*name.split("-"), f"term{i}"),
        )
        for i, name in enumerate(GROUPS)
    )


def make_map() -> MapRecord:
    rng = random("map")
    group = rng.integers(0, 4, 120)
    centre = np.array([[-0.6, 0.5], [0.7, 0.6], [0.5, -0.6], [-0.5, -0.4]])[group]
    x, y = np.clip(centre + rng.normal(0, 0.12, (120, 2)), -1, 1).T
    return MapRecord(
        method="pca",
        x=tuple(x.tolist()),
        y=tuple(y.tolist()),
        groups=tuple(GROUPS[i] for i in group),
        domains=tuple(DOMAINS[i % len(DOMAINS)] for i in range(120)),
    )


def make_made() -> GenerationRecord:
    def voyage(name, growth, rejected):
        rounds = tuple(
            VoyageRound(
                round=i,
                proposed=30,
                accepted=12,
                total=12 * (i + 2),
                vendi=float(1 + growth * np.log1p(i + 2)),
                threshold=0.4 * 0.99**i,
                mean_gain=0.35,
            )
            for i in range(-1, 40)
        )
        return VoyageRecord(
            name=name,
            wanted=500,
            accepted=492,
            detail="492 of 500 accepted: 10 rounds in a row without an accepted item",
            vendi=rounds[-1].vendi,
            proposed=1230,
            explorers=61,
            calls=444,
            rejected=rejected,
            rounds=rounds,
        )

    places = random("made").normal(size=(300, 2)) / 4
    return GenerationRecord(
        voyages=(
            voyage("voyager", 6.0, {"selection: low_gain": 690, "refusal: refusal": 31, f"item: {HOSTILE}": 17}),
            voyage("default", 1.5, {}),
        ),
        map=MadeMap(
            x=tuple(float(x) for x in places[:, 0]),
            y=tuple(float(y) for y in places[:, 1]),
            kinds=("rejected",) * 100 + ("seed",) * 50 + ("voyager",) * 100 + ("default",) * 50,
        ),
        samples=(
            MadeSample(item="generated#0-1-4", round=3, reason=None, gain=0.62, threshold=0.4, text="What is 2 + 3?"),
            MadeSample(item=HOSTILE, round=3, reason="low_gain", gain=0.1, gradient=HOSTILE, text=HOSTILE),
            MadeSample(item="generated#0-1-6", round=-1, reason="not_json"),
        ),
        variants=VariantsRecord(
            sizes={"0": 14, "3": 120, "4": 358},
            transforms=(
                TransformRow(name="rename_names", kept=410, not_applicable=70, rejected={"alignment": 12}),
                TransformRow(name="paraphrase", kept=301, not_applicable=191),
            ),
        ),
    )


def make_policy() -> PolicyRecord:
    steps = tuple(range(1, 121))
    noise = random("reward").normal(0, 0.04, 120)
    x = np.arange(120)

    def curve(values):
        return Curve(steps=steps, values=tuple(float(v) for v in np.clip(values, 0, 1)))

    def passes(name, before, gain):
        ks = (1, 4, 16)
        return PassRecord(
            name=name,
            problems=64,
            samples=16,
            ks=ks,
            before=tuple(1 - (1 - before) ** k for k in ks),
            after=tuple(1 - (1 - before - gain) ** k for k in ks),
            error=(0.031, 0.028, 0.012),
        )

    return PolicyRecord(
        objective="ta-grpo",
        model="model-1",
        device="cpu",
        parameters=6_294_784,
        groups=410,
        problems=1_502,
        held_out=48,
        steps=120,
        answers=61_440,
        seconds=412.5,
        reward=curve(0.25 + 0.4 * (1 - np.exp(-x / 40)) + noise),
        zero_gradient=curve(0.5 - 0.2 * (1 - np.exp(-x / 40)) - noise),
        all_zero=curve(0.4 - 0.3 * (1 - np.exp(-x / 40)) - noise),
        all_one=curve(0.1 + 0.1 * (1 - np.exp(-x / 40)) + noise),
        transforms=(
            TransformReward(transform="original", first=0.31, last=0.66),
            TransformReward(transform="rename_names", first=0.22, last=None),
        ),
        passes=(passes("originals", 0.31, 0.22), passes("variants", 0.24, 0.25)),
        outcomes={"correct": 30_100, "wrong": 31_310, "timeout": 30},
        dropped={"too_long": 6, "pad": 1},
        samples=(
            AnswerSample(
                step=1,
                problem="generated#0-1-4",
                transform="original",
                reward=1.0,
                outcome="correct",
                question="What is 2 + 3?",
                text="Answer: 5",
            ),
            AnswerSample(
                step=90,
                problem=HOSTILE,
                transform=HOSTILE,
                reward=None,
                outcome="timeout",
                question=HOSTILE,
                text=HOSTILE,
            ),
        ),
    )


def make_refresh() -> RefreshRecord:
    def held_out(split, difference):
        return HeldOut(
            split=split, sequences=212, tokens=51_080, before=3.61, after=3.61 + difference, difference=difference,
            error=0.0042,
        )  # fmt: skip

    def one(number, base, new, removed, accepted, losses=(), made=None):
        return Round(
            number=number, base=base, state=f"{number:032x}", why=f"files since round {number - 1}: {new} new",
            files=Files(total=40 + number, new=new, changed=0, removed=removed), rows=19_000 + 500 * number,
            tokens=9_000_000 + 81_000 * number, first_step=400 * (number - 1), last_step=400 * number,
            accepted=accepted, reason=f"because <b>{number}</b>", losses=losses, made=made,
        )  # fmt: skip

    made = Made(wanted=60, accepted=41, gain=0.62, threshold=0.55, reason="patience")
    return RefreshRecord(
        current=2,
        rounds=(
            one(1, None, 41, 0, True),
            one(2, 1, 3, 0, True, (held_out("new", -0.0871), held_out("old", -0.0612)), made),
            one(3, 2, 1, 2, False, (held_out("new", 0.0311), held_out("old", 0.0017))),
        ),
        seconds=(351.2, 96.4, None),
        coverage=(
            CoverageRow(domain="a <i>thin</i> one", documents=31, anchors=9, gain=0.71),
            CoverageRow(domain=DOMAINS[0], documents=640, anchors=80, gain=0.22),
            CoverageRow(domain=DOMAINS[1], documents=2, anchors=2, gain=None),
        ),
    )


def make_record() -> RunRecord:
    prose = (
        "The iterator protocol consists of two methods. An object that has both can be used in a for statement; when "
        "no items remain, the second raises an exception that ends the loop. What is exhausted stays exhausted."
    )
    kept = [
        KeptSample(
            doc_id=f"{d.replace(' ', '-')}/{i}.rst#{i * 11}",
            domain=d,
            source="environment",
            text=f"{prose}\n\n({d}, {i})",
            scores={"quality": 0.61 + 0.1 * i},
            copies=1 + i,
        )
        for d in DOMAINS
        for i in range(3)
    ]
    kept[0] = KeptSample(
        doc_id="web/evil.html#0",
        domain=DOMAINS[0],
        source="environment",
        text=f"A page about {HOSTILE} and \x1b[31mred\x1b[0m \u202etxt.exe\u202c &lt;b&gt;",
        scores={"quality": 0.5},
    )
    dropped = [
        DroppedSample(doc_id=f"{step}/{i}#0", domain=DOMAINS[i], step=step, reason=reason, detail=detail, text=sample)
        for step, reason, detail, sample in (
            ("gopher", "too_few_words", None, "See also."),
            ("gopher", "symbol_ratio", None, "### ... ### ... ### ... ###"),
            (
                "exact_duplicates",
                "duplicate",
                "kept: lib/LICENSE#0",
                "Permission is hereby granted, free of charge, to any person",
            ),
            ("language", "not_english", "de 0.98", "Der Iterator liefert das nächste Element."),
            ("quality", "low_quality", None, None),
        )
        for i in range(2)
    ]
    return RunRecord(
        recipe="quickstart",
        seed=17,
        started="2026-03-02T09:14:55Z",
        seconds=353.2,
        peak_memory_bytes=2_871_000_000,
        machine=Machine(
            system="Linux-6.1-x86_64",
            processor="AMD EPYC 7B13",
            cores=2,
            memory_bytes=16_000_000_000,
            accelerator="NVIDIA L4",
        ),
        outcome=Outcome(rows=19_570, bytes=33_717_262, tokens=9_088_211, domains=6, rounds=2, final_loss=3.214),
        versions={
            "python": "3.11.9",
            "penstock": "0.1.0",
            "torch": "2.13.0",
            "pyarrow": "21.0.0",
            "tokenizers": "0.22.1",
        },
        sources=(
            SourceRecord(
                name="environment",
                kind="environment",
                location="this Python installation",
                files=tuple(f"lib/python3.11/{n}.py" for n in ("abc", "ast", "bisect")),
                files_total=18_204,
                rows=58_214,
                bytes=141_208_331,
            ),
            SourceRecord(
                name="procedural",
                kind="procedural",
                location="reasoning-gym",
                files=(),
                files_total=0,
                rows=6_000,
                bytes=1_802_440,
            ),
        ),
        made=make_made(),
        asked=(
            AskedRecord(
                step="generated",
                model="small-instruct",
                requests=444,
                kept=12,
                prompt_tokens=91_200,
                completion_tokens=188_300,
                cost=0.41,
                failed={"429": 3},
                p50=0.8,
                p99=4.4,
            ),
        ),
        steps=make_steps(),
        stages=make_stages(),
        domains=make_points(),
        groups=make_groups(),
        map=make_map(),
        distributions=make_distributions(),
        selections=(make_selection(1), make_selection(2)),
        search=make_search(),
        kept=tuple(kept),
        dropped=tuple(dropped),
        contamination=(
            ContaminationRecord(
                benchmark="gsm8k",
                items=1319,
                checkable=1311,
                found=26,
                coverage=0.875,
                documents=41,
                dropped=40,
                samples=(
                    ContaminatedSample(
                        item="test.jsonl#7",
                        doc_id="web/part-3.jsonl#12",
                        field="question+answer",
                        kind="ngram",
                        coverage=0.75,
                        text="How many apples are left in the third basket?",
                    ),
                ),
            ),
        ),
        tokenizer=TokenizerRecord(
            kind="byte-level BPE",
            vocabulary=8_192,
            trained_on_bytes=32_000_000,
            domains=tuple(
                TokenizerDomain(
                    domain=d,
                    bytes=22_900_000 - i * 3_100_000,
                    tokens=int((22_900_000 - i * 3_100_000) / (4.31 - 0.21 * i)),
                    words=3_500_000 - i * 500_000,
                )
                for i, d in enumerate(DOMAINS)
            ),
            longest=(
                LongToken(id=8_021, text="----------------", bytes=16),
                LongToken(id=7_733, text=" documentation", bytes=14),
                LongToken(id=6_120, text="\n\n        ", bytes=10),
            ),
        ),
        training=(make_training(1, 0.0), make_training(2, 0.12)),
        beside=(make_training(1, 0.05, "static"),),
        policy=make_policy(),
        changes=(make_change(),),
        refresh=make_refresh(),
        warnings=("Domain licences gives 0.4 % of the tokens, less than one sequence in 200.",),
    )


@pytest.fixture(scope="session")
def record() -> RunRecord:
    return make_record()


@pytest.fixture(scope="session")
def bare() -> RunRecord:
    """A run that made nothing: every optional part is missing."""
    return RunRecord(
        recipe="bare",
        seed=0,
        started="2026-03-02T09:14:55Z",
        seconds=0.4,
        peak_memory_bytes=90_000_000,
        machine=Machine(system="Linux", processor="unknown", cores=1, memory_bytes=1_000_000_000),
        outcome=Outcome(rows=0, bytes=0, domains=0),
    )


if __name__ == "__main__":
    from penstock.report.render import write

    write(make_record(), sys.argv[1])

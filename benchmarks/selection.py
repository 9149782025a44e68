"""Choosing by a target: which methods find rows of the target's domain in a pool, and what BM25 costs.

Passages of 128 words. For each target domain, 200 passages from half of its documents are the target; one in twenty
rows of the pool is from the other half, the others are of all other domains alike. A method is as good as its scores
put the planted rows before the rest (AUC), and as they are what it selects of 5 % (precision; chance is 0.05). The
median, least and largest are over three seeds, and over the domains where none is named. Domains are easy to tell
apart: this says that a method works, not that a model learns more from what it chooses.

Markup of one of the usual sources, which would give its rows away, is taken out. Methods that need a model are measured
with ``--model``. Times are processor seconds of this process.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.corpora import files_of, from_environment, texts_of
from penstock.seeding import rehash, stream
from penstock.sources.base import documents_batch

WORDS = 128
TARGET, SHARE, PLANTED = 200, 0.05, 0.05
TARGETS = ("wikipedia", "biomedical", "legal_licences", "movie_reviews")  # those of them that the data has
LEAST = 400  # passages of a domain that takes part
_MARKUP = re.compile(r"\s*(@(.)@)\s*|<unk>")
_BEFORE_MARKS = re.compile(r"\s+([,.;:!?)])")


def measure(options: harness.Options) -> harness.Result:
    from threadpoolctl import threadpool_limits

    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        data = options.data
        if data is None:
            data = Path(folder) / "data"
            data.mkdir()
            from_environment(data, 8 if options.quick else 40)
        domains = passages(data)
        targets = [name for name in TARGETS if name in domains] or sorted(domains, key=lambda d: -len(domains[d]))
        targets = targets[: 1 if options.quick else 3]
        rows, bars = found_rows(domains, targets, options, Path(folder))
        more, speed = bm25_speed(domains, options.quick)
    return harness.Result(
        rows=rows + more, bars=bars + speed, versions=harness.versions("bm25s", "faiss-cpu", "numba", "numpy")
    )


def passages(data: Path) -> dict[str, list[tuple[int, str]]]:
    """(document, passage) by domain, for domains with enough of them."""
    found: dict[str, list[tuple[int, str]]] = {}
    for path in files_of(data):
        own = []
        for number, text in enumerate(texts_of(path)):
            text = _MARKUP.sub(lambda mark: mark.group(2) or " ", text)
            words = _BEFORE_MARKS.sub(r"\1", text).split()
            own += [(number, " ".join(words[i : i + WORDS])) for i in range(0, len(words) - WORDS + 1, WORDS)]
        if len(own) >= LEAST:
            found[path.name.removesuffix(".jsonl.gz")] = own
    if len(found) < 2:
        raise harness.BenchmarkError(f"{data}: fewer than two domains of {LEAST} passages; name a larger folder")
    return found


def task(domains: dict[str, list[tuple[int, str]]], wanted: str, seed: int, size: int) -> tuple[pa.Table, pa.Table]:
    """(target, pool) for one domain: no document is in both."""
    rng = stream(seed, "selection", wanted)
    numbers = rng.permutation(sorted({number for number, _ in domains[wanted]}))
    half = set(numbers[: len(numbers) // 2].tolist())
    own = [domains[wanted][i] for i in rng.permutation(len(domains[wanted])).tolist()]
    target = [text for number, text in own if number in half][:TARGET]
    planted = [text for number, text in own if number not in half]
    others = [name for name in domains if name != wanted]
    rest: list[tuple[str, str]] = []
    for name in others:
        taken = rng.permutation(len(domains[name]))[: size // len(others)]
        rest += [(name, domains[name][i][1]) for i in taken.tolist()]
    count = min(len(planted), round(len(rest) * PLANTED / (1 - PLANTED)))
    chosen = rng.permutation(len(planted))[:count]
    rows = rest + [(wanted, planted[i]) for i in chosen.tolist()]
    return as_table("target", [(wanted, text) for text in target]), as_table("pool", rows)


def as_table(name: str, rows: list[tuple[str, str]]) -> pa.Table:
    """Documents with their vectors."""
    ids = [f"{name}#{i}" for i in range(len(rows))]
    batch = documents_batch(ids, [t for _, t in rows], source=name, domains=[d for d, _ in rows])
    return pa.Table.from_batches([batch])


def found_rows(
    domains: dict[str, list[tuple[int, str]]], targets: list[str], options: harness.Options, folder: Path
) -> tuple[list[harness.Row], list[harness.Bar]]:
    from penstock.embedding.base import Embed
    from penstock.embedding.distil import distilled
    from penstock.embedding.static import StaticVectors, save_static

    path, digest = save_static(str(folder), *distilled(print), {})
    work = Embed(embedder=StaticVectors(path=path, digest=digest, dimensions=256))
    model = options.more.get("model")
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in methods_of(model, 0)}
    for wanted in targets:
        for seed in range(1 if options.quick else 3):
            target, pool = (
                table.append_column("embedding", work.annotate(table.combine_chunks().to_batches()[0])["embedding"])
                for table in task(domains, wanted, seed, 2_000 if options.quick else 16_000)
            )
            of_bm25: set[str] = set()
            for name, selector in methods_of(model, seed).items():
                figures, chosen = run(selector, target, pool, wanted, folder)
                of_bm25 = chosen if name == "bm25" else of_bm25
                figures["jaccard"] = len(chosen & of_bm25) / max(1, len(chosen | of_bm25))
                found[name].setdefault(wanted, []).append(figures)
                shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
                print(f"{wanted} seed {seed} {name}: {shown}", flush=True)
    rows = []
    for name, by_domain in found.items():
        for wanted, figures in by_domain.items():
            rows.append(harness.row(f"{name}: {wanted}", [of["auc"] for of in figures], "AUC"))
        every = [of for figures in by_domain.values() for of in figures]
        rows.append(harness.row(f"{name}: planted of the selected", [of["precision"] for of in every], "share"))
        if name != "bm25":
            rows.append(harness.row(f"{name}: selected by bm25 too", [of["jaccard"] for of in every], "Jaccard"))
        rows.append(harness.row(f"{name}: fit, score, choose", [of["rate"] for of in every], "rows/s"))
    bars = [
        harness.Bar(
            name=f"median AUC of {name}",
            value=statistics.median(of["auc"] for figures in by_domain.values() for of in figures),
            op=">",
            want=0.9,
        )
        for name, by_domain in found.items()
        if name not in ("random", "loss")  # a loss says how hard a text is, and not what it is about
    ]
    return rows, bars


def methods_of(model: str | None, seed: int) -> dict[str, Any]:
    from penstock.selectors.targeted.baseline import Random
    from penstock.selectors.targeted.bm25 import BM25
    from penstock.selectors.targeted.diverse import Diverse
    from penstock.selectors.targeted.importance import Importance
    from penstock.selectors.targeted.mona import MONA

    methods: dict[str, Any] = {
        "bm25": BM25(),
        "random": Random(seed=seed),
        "bm25, max": BM25(aggregate="max"),
        "importance": Importance(epochs=1.0, seed=seed),
        "diverse": Diverse(),
        "mona, n-grams": MONA(code="ngrams"),
    }
    if model is not None:
        from penstock.selectors.targeted.less import LESS
        from penstock.selectors.targeted.loss_based import LossBased

        methods |= {
            "loss": LossBased(model=model, max_tokens=128),
            "less": LESS(model=model, max_tokens=128, seed=seed),
            "mona": MONA(model=model, max_tokens=128, seed=seed),
        }
    return methods


def run(
    selector: Any, target: pa.Table, pool: pa.Table, wanted: str, folder: Path
) -> tuple[dict[str, float], set[str]]:
    """AUC, precision of 5 % and rows a second of one method; and the ids that it selects."""
    from sklearn.metrics import roc_auc_score

    from penstock.selectors.targeted.base import Budget, Chooses, choose

    batches = pool.combine_chunks().to_batches(max_chunksize=4096)
    selector.fit(target, batches[:1], str(folder)) if selector.name == "bm25" else None  # compiles
    started = time.process_time()
    scorer = selector.fit(target, batches, str(folder))
    parts = []
    for batch in batches:
        added = scorer.annotate(batch)
        columns = {name: batch[name] for name in ("doc_id", "id_hash", "domain")}
        more = {name: column for name, column in added.items() if name != selector.column}
        parts.append(pa.table(columns | {"score": added[selector.column]} | more))
    scores = pa.concat_tables(parts)
    budget = Budget(fraction=SHARE)
    chosen = selector.choose(scores, budget) if isinstance(selector, Chooses) else choose(scores, fraction=SHARE)
    seconds = time.process_time() - started
    planted = np.array(chosen["domain"].to_pylist()) == wanted
    score = chosen["score"].fill_null(-np.inf).to_numpy().astype(np.float64)
    finite = np.nan_to_num(score, neginf=np.nanmin(score[np.isfinite(score)]) - 1)
    taken = chosen["selected"].to_numpy()
    return {
        "auc": float(roc_auc_score(planted, finite)),
        "precision": float(planted[taken].mean()),
        "rate": len(planted) / seconds,
    }, set(chosen["doc_id"].filter(chosen["selected"]).to_pylist())


# ── what BM25 costs ──────────────────────────────────────────────────────────────────────────────


def bm25_speed(domains: dict[str, list[tuple[int, str]]], quick: bool) -> tuple[list[harness.Row], list[harness.Bar]]:
    """Ours against the library bm25s on one pool and one target: fit and score, everything from text on."""
    from penstock.selectors.targeted.bm25 import BM25

    texts = [text for name in sorted(domains) for _, text in domains[name]]
    order = np.argsort(rehash(np.arange(len(texts), dtype=np.uint64), 0, "selection"))
    target, texts = [texts[i] for i in order[:TARGET]], [texts[i] for i in order[TARGET:]]
    texts = texts[: 2_000 if quick else 40_000]
    batches = [pa.RecordBatch.from_pydict({"text": texts[i : i + 4096]}) for i in range(0, len(texts), 4096)]
    values: dict[str, Any] = {}

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            scorer = BM25().fit(pa.table({"text": target}), batches, folder)
            values["ours"] = np.concatenate([scorer.annotate(b)["score.bm25"].to_numpy() for b in batches])
            return time.process_time() - started

    def theirs() -> float:
        import bm25s

        started = time.process_time()
        # the same words: letters, marks and digits of any script, in lower case, none left out
        pattern = r"(?u)\w+"
        cut = bm25s.tokenize(texts, token_pattern=pattern, stopwords=None, show_progress=False)
        index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        index.index(cut, show_progress=False)
        query = bm25s.tokenize(target, token_pattern=pattern, stopwords=None, return_ids=False, show_progress=False)
        total = np.zeros(len(texts))
        for words in query:
            total += index.get_scores(words)
        values["theirs"] = total * 2.5 / len(query)
        return time.process_time() - started

    ours(), theirs()
    seconds = harness.alternate({"ours": ours, "bm25s": theirs}, 2 if quick else 5)
    agree = float(np.corrcoef(values["ours"], values["theirs"])[0, 1])
    naive = naive_rate(texts[:500], target[:20], len(texts))
    size = sum(len(text.encode()) for text in texts) / 1e6
    rows = [
        harness.row(f"BM25, {len(texts):,} passages, {TARGET} examples: {side}", [len(texts) / s for s in of], "rows/s")
        for side, of in seconds.items()
    ]
    rows.append(harness.row("BM25, fit and score: ours", [size / s for s in seconds["ours"]], "MB/s"))
    rows.append(harness.row("BM25 as the formula reads, in Python, for 200 examples", [naive], "rows/s"))
    found = harness.ratio(seconds["bm25s"], seconds["ours"])
    rows.append(harness.ratio_row("bm25s / ours, seconds", found, len(seconds["ours"])))
    bars = [
        harness.Bar(name="BM25: bm25s takes so many times as long", value=found.median, op=">=", want=1.0),
        harness.Bar(name="BM25: correlation of scores with bm25s", value=agree, op=">", want=0.999),
    ]
    return rows, bars


def naive_rate(texts: list[str], target: list[str], documents: int) -> float:
    """Rows a second for 200 examples of a loop over words, documents and examples, as rank_bm25 has it."""
    from collections import Counter

    counts = [Counter(text.lower().split()) for text in texts]
    holding = Counter(word for count in counts for word in count)
    mean = statistics.mean(sum(count.values()) for count in counts)
    idf = {word: np.log(1 + (documents - n + 0.5) / (n + 0.5)) for word, n in holding.items()}
    started = time.process_time()
    for query in target:
        for count in counts:
            slow = 1.5 * (0.25 + 0.75 * sum(count.values()) / mean)
            sum(idf[w] * count[w] * 2.5 / (count[w] + slow) for w in query.lower().split() if w in count)
    return len(texts) / (time.process_time() - started) * len(target) / TARGET


def options_of() -> Any:
    command = harness.parser(__doc__)
    command.add_argument("--model", help="folder of a causal LM, for loss, less and mona")
    return command


if __name__ == "__main__":
    harness.main("selection", __doc__, measure, command=options_of())

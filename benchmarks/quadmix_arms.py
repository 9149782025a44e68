"""The arms of benchmarks/quadmix.py: what each takes from a seed's pool, the searches, and the models trained at last.

An arm is a number of copies of every passage of the pool, and all have the same budget of tokens:

    random                    passages by a hash
    top-k of a score          the best by that score alone, over all domains
    top-k of the mean         the best by the mean of the three normalised ranks
    quadmix                   what the search over theta found, with a multiplier of each domain
    regmix                    what the search over shares of the domains found; inside a domain by a hash
    quadmix, shuffled scores  the whole search of ``quadmix`` on scores dealt out anew among each domain's passages

Searches have the same settings, the same number of proxies and the same budget; only the space, or the scores, differ.
They propose the mean of the best predicted draws, as QuaDMix and RegMix do. Beside them, evolution and rounds of
measurements are run for their re-measured losses alone; no final model is trained on what they find.

Price: a search with n-gram proxies takes half a minute to a minute of one core; with proxies trained by penstock's
loop some 20 minutes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.corpora import SEED
from benchmarks.quadmix_data import SCORES, CorpusSettings, draw
from benchmarks.small_lm import VOCABULARY, Job, Piece, Schedule, evaluate, new_model, train, write_domain
from penstock.pipelines.passes import Pass, Split, run_split
from penstock.seeding import derive, rehash, stream
from penstock.selectors.proxies.data import Proxy, ProxyData, TokenDocuments
from penstock.selectors.proxies.loop import LoopConfig, LoopProxy
from penstock.selectors.proxies.measure import ProxyMeasure, Selected
from penstock.selectors.proxies.ngram import NgramConfig, NgramProxy
from penstock.selectors.quadmix_theta import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.search.driver import search
from penstock.selectors.search.mixture_space import MixtureSpace
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.result import SearchResult
from penstock.selectors.search.settings import Method, SearchSettings
from penstock.selectors.search.space import Space, ThetaSpace
from penstock.selectors.search.surrogate import fit_surrogate
from penstock.storage import Folder

CRITERIA = tuple(Criterion(column=name, direction="higher") for name in SCORES)
TOP_K = {f"top-k of {name.removeprefix('score.')}": n for n, name in enumerate(SCORES)}
MEAN = "top-k of the mean"
SEARCHED = ("quadmix", "regmix", "quadmix, shuffled scores")
ARMS = ("random", *TOP_K, MEAN, *SEARCHED)
SEARCHES: dict[str, Method] = {"search": "random", "search by evolution": "evolution", "search by rounds": "climb"}
PARTS = 4  # jobs of each kind of the comparison

Proxies = Literal["ngram", "loop"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the runs, apart from the files."""

    revision: int = 1  # of what these files and small_lm.py do
    seeds: int = 5
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    proxies: Proxies = "ngram"
    search: SearchSettings = field(default_factory=SearchSettings)
    omega_max: float = 1.0  # the paper's 0.1 is for hundreds of billions of tokens; here a tenth of all is taken
    copy_cap: float = 4.0
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=300, rows=16, length=128, evaluate_every=300))
    loop_steps: int = 150  # of proxies of kind ``loop``
    compared: int = 12  # thetas of seed 0 by which the proxies' rankings are compared with the final models'

    @property
    def budget(self) -> int:
        """Passages that every final model and every proxy set has."""
        return self.schedule.steps * self.schedule.rows


def settings_in(folder: Path) -> Settings:
    """The settings that a scratch folder was made for."""
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    search = saved["search"] | {"rounds": tuple(saved["search"]["rounds"])}
    return Settings(
        **saved
        | {
            "corpus": CorpusSettings(**saved["corpus"]),
            "search": SearchSettings(**search),
            "schedule": Schedule(**saved["schedule"]),
        }
    )


# --- one seed's pool ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Corpus:
    """A seed's pool, its tokens in the order of ``pool``, and the held-out passages."""

    table: pa.Table
    pool: Pool
    tokens: NDArray[np.uint16]  # (n, L)
    targets: tuple[str, ...]
    folder: Path

    def held_out(self, side: Literal["proxies", "final"]) -> NDArray[np.uint16]:
        """Passages of each target domain: (2, h, L)."""
        found: NDArray[np.uint16] = np.load(self.folder / f"{side}.npy")
        return found

    def column(self, name: str) -> NDArray[Any]:
        """A column of the table in the order of the pool."""
        found: NDArray[Any] = self.table[name].to_numpy()[self.pool.row]
        return found


def corpus_of(folder: Path, seed: int, *, shuffled: bool = False) -> Corpus:
    """What ``quadmix_data.draw`` wrote; ``shuffled``: with the rows of scores dealt out anew inside each domain."""
    here = folder / f"seed-{seed}"
    table = pq.read_table(here / "pool.parquet")
    if shuffled:
        table = dealt(table, seed)
    even = DomainParameters(alpha=(1 / len(CRITERIA),) * len(CRITERIA), lam=1.0, omega=0.0, eta=0.0, eps=0.0)
    pool = Pool.of(table, QuaDMixParameters(criteria=CRITERIA, default=even))
    facts = json.loads((folder / corpus_job(seed).file).read_text())
    return Corpus(table, pool, np.load(here / "tokens.npy")[pool.row], tuple(facts["targets"]), here)


def corpus_job(seed: int) -> Job:
    return Job("corpus", "all", seed)


def dealt(table: pa.Table, seed: int) -> pa.Table:
    """The table with the three scores of each row moved together to another row of the same domain."""
    domain = table["domain"].to_numpy()
    to = np.arange(len(table))
    for name in dict.fromkeys(domain.tolist()):
        rows = np.flatnonzero(domain == name)
        to[rows] = stream(SEED, "dealt scores", seed, name).permutation(rows)
    for name in SCORES:
        table = table.set_column(table.column_names.index(name), name, table[name].take(pa.array(to)))
    return table


# --- what the arms take ---------------------------------------------------------------------------------------------


def first(order: NDArray[Any], id_hash: NDArray[np.uint64], count: int) -> NDArray[np.int32]:
    """One copy of the ``count`` rows that are smallest by ``order``, ties by hash: (n,)."""
    chosen = np.lexsort((id_hash, order))[:count]
    copies = np.zeros(len(order), dtype=np.int32)
    copies[chosen] = 1
    return copies


def selected_of(arm: str, corpus: Corpus, settings: Settings) -> Selected:
    """The search space of an arm on the pool, with the budget; its copies hold that up to the rounding of coins."""
    if arm == "regmix":
        space: Space = MixtureSpace.of(corpus.pool)
    else:
        space = ThetaSpace(
            criteria=CRITERIA, domains=corpus.pool.domains, domain_multiplier=True, omega_max=settings.omega_max
        )
    return Selected(space, corpus.pool, settings.budget * settings.corpus.length, settings.copy_cap)


def copies_of_arm(arm: str, folder: Path, corpus: Corpus, settings: Settings, seed: int) -> NDArray[np.int32]:
    """Copies of every row of the pool: (n,)."""
    pool = corpus.pool
    coin = rehash(pool.id_hash, derive(SEED, "arms", seed), "quadmix benchmark")
    if arm == "random":
        return first(coin, coin, settings.budget)
    if arm == MEAN:
        return first(pool.sigma.mean(axis=1), coin, settings.budget)
    if arm in TOP_K:
        return first(pool.sigma[:, TOP_K[arm]], coin, settings.budget)
    found = json.loads((folder / Job("search", arm, seed).file).read_text())
    return selected_of(arm, corpus, settings).copies(found["unit"], derive(SEED, "final", seed))


# --- models ---------------------------------------------------------------------------------------------------------


def trained(corpus: Corpus, copies: NDArray[np.int32], schedule: Schedule, seed: int) -> dict[str, float]:
    """Train a final model on the copies and return its loss on passages that no search saw, by target domain."""
    from penstock.training.loader import MixtureLoader
    from penstock.training.sequences import SequenceStore

    rows = np.repeat(np.arange(len(copies)), copies)
    pieces = [Piece(f"{i}", "", corpus.tokens[row]) for i, row in enumerate(rows.tolist())]
    model = new_model(schedule.length, derive(SEED, "model", seed))
    with tempfile.TemporaryDirectory(dir=corpus.folder) as folder:
        path = Path(folder) / "train.arrow"
        write_domain(path, "train", pieces, schedule.length)
        loader = MixtureLoader(
            SequenceStore.open({"train": [path]}),
            {"train": 1.0},
            seed=derive(SEED, "order", seed),
            fingerprint=f"seed {seed}",
            batch_size=schedule.rows,
        )
        train(model, loader, schedule)
    held = corpus.held_out("final")
    return {name: evaluate(model, held[i]) for i, name in enumerate(corpus.targets)}


def made_of(corpus: Corpus, copies: NDArray[np.int32]) -> dict[str, Any]:
    """What a selection consists of."""
    clean = corpus.column("kind") == ""
    of_target = np.isin(corpus.column("domain"), corpus.targets)
    taken = int(copies.sum())
    return {
        "passages": taken,
        "different": int((copies > 0).sum()),
        "most copies": int(copies.max()),
        "spoilt": float(copies[~clean].sum() / taken),
        "of the target": float(copies[of_target].sum() / taken),
        "clean and of the target": float(copies[of_target & clean].sum() / taken),
    }


def proxy_data(corpus: Corpus) -> ProxyData:
    """Pool and target as the proxies of penstock read them; every passage is a document."""
    held = corpus.held_out("proxies")
    pool = TokenDocuments(
        corpus.tokens.reshape(-1),
        np.arange(len(corpus.tokens) + 1, dtype=np.int64) * corpus.tokens.shape[1],
        corpus.pool.domain,
        corpus.pool.domains,
    )
    target = TokenDocuments(
        held.reshape(-1),
        np.arange(held.shape[0] * held.shape[1] + 1, dtype=np.int64) * held.shape[2],
        np.repeat(np.arange(len(held), dtype=np.int32), held.shape[1]),
        corpus.targets,
    )
    return ProxyData(pool, corpus.pool.id_hash, target, vocabulary=VOCABULARY, pad_id=0)


def proxy_of(kind: Proxies, corpus: Corpus, settings: Settings) -> Proxy:
    """A kind of proxy on the seed's pool and target."""
    data, folder = proxy_data(corpus), str(corpus.folder / "proxies")
    if kind == "loop":
        return LoopProxy.of(data, LoopConfig(steps=settings.loop_steps, warmup_steps=settings.loop_steps // 10), folder)
    return NgramProxy.of(data, NgramConfig(), folder)


class InTurn:
    """Engine: one split after the other in this process; searches are the jobs that run side by side."""

    def map(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        for split in splits:
            run_split(job, split)
            done(1)


# --- jobs -----------------------------------------------------------------------------------------------------------


def work(folder: Path, job: Job) -> dict[str, Any]:
    """Run a job: draw a corpus, search, train an arm's final model, or measure one theta for the comparison."""
    settings = settings_in(folder)
    if job.setting == "corpus":
        return draw(folder, settings.corpus, job.seed)
    if job.setting in SEARCHES:
        return searched(folder, job, settings)
    if job.setting == "final":
        return finished(folder, job, settings)
    return compared(folder, job, settings)


def searched(folder: Path, job: Job, settings: Settings) -> dict[str, Any]:
    """The result of a search; its proxies are kept, so that one that was interrupted goes on."""
    corpus = corpus_of(folder, job.seed, shuffled=job.arm.endswith("shuffled scores"))
    selected = selected_of(job.arm, corpus, settings)
    measure = ProxyMeasure(proxy_of(settings.proxies, corpus, settings), selected, Folder(str(corpus.folder)), InTurn())
    seed = derive(SEED, "search", job.seed)
    how = replace(settings.search, method=SEARCHES[job.setting])
    result = search(selected.space, corpus.pool, measure, how, seed=seed)
    return result.to_json() | {"deviation of predictions": deviation(result, selected.space, seed)}


def deviation(result: SearchResult, space: Space, seed: int) -> float:
    """Of what a surrogate of the search's points predicts for other random points; a constant would choose blindly."""
    points = [m for m in result.measured if m.trial.purpose == "search" and m.value is not None]
    units, losses = np.array([m.trial.unit for m in points]), np.array([m.value for m in points])
    predicted = fit_surrogate(units, losses, seed=seed).predict(space.draw(1000, seed=seed, name="deviation"))
    assert np.ptp(predicted) > 0.0, "the surrogate predicts the same for every point"
    return float(predicted.std())


def finished(folder: Path, job: Job, settings: Settings) -> dict[str, Any]:
    """The final model of an arm: its loss on passages that no search has seen, and what it was trained on."""
    started = time.process_time()
    corpus = corpus_of(folder, job.seed, shuffled=job.arm.endswith("shuffled scores"))
    copies = copies_of_arm(job.arm, folder, corpus, settings, job.seed)
    losses = trained(corpus, copies, settings.schedule, job.seed)
    return {
        "loss": statistics.fmean(losses.values()),
        "losses": losses,
        "made of": made_of(corpus, copies),
        "seconds": time.process_time() - started,
    }


def compared(folder: Path, job: Job, settings: Settings) -> dict[str, Any]:
    """Losses of some random thetas of seed 0: by a kind of proxy on its passages, or by final models on theirs.

    ``job.seed`` is the part of the thetas that is measured; the coins of the copies are the same for all kinds.
    """
    corpus = corpus_of(folder, 0)
    selected = selected_of("quadmix", corpus, settings)
    points = selected.space.draw(settings.compared, seed=derive(SEED, "compared"), name="compared")[job.seed :: PARTS]
    copies = [selected.copies(point.tolist(), derive(SEED, "compared")) for point in points]
    proxy = None if job.arm == "final" else proxy_of(job.arm, corpus, settings)  # type: ignore[arg-type]
    losses, seconds = [], []
    for some in copies:
        started = time.process_time()
        if proxy is None:
            losses.append(statistics.fmean(trained(corpus, some, settings.schedule, 0).values()))
        else:
            losses.append(proxy.measure(some, seed=0).loss)
        seconds.append(time.process_time() - started)
    return {"losses": losses, "seconds": seconds}

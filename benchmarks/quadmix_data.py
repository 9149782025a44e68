"""The corpus of benchmarks/quadmix.py: real passages, a part of them spoilt, scored by three criteria.

Every file of the data is a domain; a passage is 128 consecutive tokens of a document. Two domains are the target: two
sets of their documents are held out, one that the search's proxies are measured on and one for the final models, and
the pool has neither. About 30 % of the pool is spoilt, a third of it each way:

    shuffled       the passage's words in a random order
    noise          15 % of the characters replaced, dropped or doubled
    boilerplate    cookie notices, menus and footers instead of the text

The share differs by domain and is largest in the target's: their names alone are no way to clean text. Scores:

    score.quality  penstock's quality classifier, trained on labelled passages of some domains; in others up to 60 %
                   of the passages have the score of another passage of their domain: good, to different degrees
    score.density  characters per token, which noise lowers; exchanged in the same way for 80 % of the passages, but
                   not where the classifier is worst: weak, and in those domains the better one of the two
    score.coin     a hash: useless

A seed draws the held-out documents, the pool, what is spoilt and the labels anew. Price: some 15 s to cut the text
and 15 s a seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.corpora import SEED, files_of
from benchmarks.harness import BenchmarkError
from benchmarks.small_lm import documents_of, pieces_of, train_tokenizer, write_json
from penstock.seeding import coins, derive, hash_ids, stream

TARGETS = (("wikipedia", "biomedical"), ("documentation", "readmes"))  # the first pair that the data has
SCORES = ("score.quality", "score.density", "score.coin")  # good, weak, useless; higher is better
KINDS = ("shuffled", "noise", "boilerplate")
TARGET_SPOILT = (0.5, 0.4)  # of the target's domains
SPREAD = (1.0, 4.0)  # other domains' shares, from the cleanest to the worst, up to a common factor
NOISE = 0.15  # of the characters
# of the domains by turns, the target's first
LABELS = (400, 100, 0)  # labelled passages, half of them spoilt
EXCHANGED = ((0.0, 0.8), (0.6, 0.0), (0.3, 0.8))  # share of passages with another's quality, and another's density

BOILERPLATE = """\
We use cookies to make this site work. By going on you agree to our cookie policy.
Accept all Reject all Manage preferences
Home | About us | Products | Services | Support | Contact | Careers
Sign up for our newsletter and never miss an offer again!
Copyright All rights reserved. Terms of use | Privacy policy | Imprint
Click here to read more >> Share on Facebook Share on Twitter Pin it Print this page
Log in Register Forgot your password? Your cart is empty
You must enable JavaScript to view this content.
Related articles Most read Most shared Editor's choice
Page 1 of 12 Next > Last >>
Skip to main content Skip to navigation Back to top
This page could not be found. Please check the address and try again.
Rate this item: 1 2 3 4 5 stars 0 comments Leave a reply Your e-mail address will not be published
Free delivery on all orders over 50! Limited time only. Buy now
Subscribe now for full access. Already a subscriber? Log in
Follow us Facebook Twitter Instagram YouTube RSS
Tags: news, update, featured, uncategorized Filed under: General Posted by admin
Download our app for iOS and Android
Loading, please wait ...
Advertisement Sponsored content You may also like
""".splitlines()


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """What decides the corpus, apart from the files."""

    length: int = 128  # tokens of a passage
    per_domain: int = 10_000  # passages, at most
    held_out: int = 256  # of each target domain, on each side
    spoilt: float = 0.3  # of the pool


# --- text -----------------------------------------------------------------------------------------------------------


def shuffled(text: str, rng: np.random.Generator) -> str:
    """The words in a random order."""
    words = text.split()
    return " ".join(words[i] for i in rng.permutation(len(words)).tolist())


def noise(text: str, rng: np.random.Generator) -> str:
    """One character in seven replaced by a letter, dropped or doubled."""
    hit = rng.random(len(text)) < NOISE
    how = rng.integers(0, 3, len(text))
    letters = rng.integers(ord("a"), ord("z") + 1, len(text))
    out = []
    for i, character in enumerate(text):
        if not hit[i]:
            out.append(character)
        elif how[i] == 0:
            out.append(chr(letters[i]))
        elif how[i] == 1:
            out.append(2 * character)
    return "".join(out)


def boilerplate(text: str, rng: np.random.Generator) -> str:
    """As many characters of page furniture as ``text`` has, or a few more."""
    out: list[str] = []
    while sum(map(len, out)) < len(text):
        out += [BOILERPLATE[i] for i in rng.integers(0, len(BOILERPLATE), 4).tolist()]
    return "\n".join(out)


SPOIL = {"shuffled": shuffled, "noise": noise, "boilerplate": boilerplate}


def spoil(
    tokens: NDArray[np.uint16], kind: Sequence[str], ids: Sequence[str], tokenizer: Any, seed: int
) -> NDArray[np.uint16]:
    """Rows (n, L) with the text of each spoilt in its way; what comes out shorter goes on from its beginning."""
    texts = tokenizer.decode_batch(tokens.tolist())
    made = [
        SPOIL[how](text, stream(SEED, "spoil", seed, name)) for text, how, name in zip(texts, kind, ids, strict=True)
    ]
    length = tokens.shape[1]
    found = [encoding.ids for encoding in tokenizer.encode_batch(made)]
    return np.array([np.resize(row or [0], length) for row in found], dtype=np.uint16).reshape(-1, length)


def spoilt_shares(sizes: Mapping[str, int], targets: Sequence[str], share: float) -> dict[str, float]:
    """Share of each domain's passages to spoil: the target's as stated, the others' so that all together make it."""
    others = sorted(set(sizes) - set(targets))
    out = dict(zip(targets, TARGET_SPOILT, strict=True))
    slope = np.linspace(*SPREAD, len(others))
    left = share * sum(sizes.values()) - sum(out[name] * sizes[name] for name in targets)
    factor = left / float(slope @ [sizes[name] for name in others])
    out |= dict(zip(others, (factor * slope).tolist(), strict=True))
    if not all(0.0 < value < 1.0 for value in out.values()):
        raise BenchmarkError(f"spoilt shares: got {out}; the target's domains are too large a part of the data")
    return out


# --- passages -------------------------------------------------------------------------------------------------------


def targets_of(names: Sequence[str]) -> tuple[str, str]:
    for pair in TARGETS:
        if set(pair) <= set(names) and len(names) > 2:
            return pair
    wanted = " or ".join(" and ".join(pair) for pair in TARGETS)
    raise BenchmarkError(f"--data: got {', '.join(names)}; allowed are three and more files, among them {wanted}")


def cut(data: Path, folder: Path, settings: CorpusSettings) -> None:
    """Cut all text into different passages: ``passages/DOMAIN.npy`` and the document of each; what is there is kept."""
    here = folder / "passages"
    if (here / "done.json").exists():
        return
    here.mkdir(exist_ok=True)
    # a token is three characters or more; the rest is cut off when a seed draws
    characters = 5 * settings.length * (settings.per_domain + 2 * settings.held_out)
    documents = {path.name.removesuffix(".jsonl.gz"): documents_of(path, characters) for path in files_of(data)}
    targets_of(list(documents))
    encode = train_tokenizer(documents, folder)
    seen: set[bytes] = set()
    for name, texts in documents.items():
        pieces = []
        for piece in pieces_of(name, texts, encode, settings.length):
            # a repeated passage could be held out and in the pool
            if (content := piece.tokens.astype(np.uint16).tobytes()) not in seen:
                seen.add(content)
                pieces.append(piece)
        number = [int(piece.document.rpartition("/")[2]) for piece in pieces]
        np.save(here / f"{name}.documents.npy", np.array(number, dtype=np.int32))
        np.save(here / f"{name}.npy", np.array([piece.tokens for piece in pieces], dtype=np.uint16))
    write_json(here / "done.json", sorted(documents))


def by_document(document: NDArray[np.int32], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Row numbers of one document after the other, in a random order of documents."""
    order = np.argsort(document, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(document[order])) + 1)
    return iter([groups[i] for i in rng.permutation(len(groups)).tolist()])


def take(groups: Iterator[NDArray[np.int64]], count: int, name: str) -> NDArray[np.int64]:
    """``count`` rows of the next whole documents; the rest of the last one belongs to nobody."""
    out: list[int] = []
    for group in groups:
        out += group.tolist()
        if len(out) >= count:
            return np.array(out[:count])
    raise BenchmarkError(f"{name}: its documents end at {len(out)} of {count} passages; bring more text")


def draw(folder: Path, settings: CorpusSettings, seed: int) -> dict[str, Any]:
    """Draw, spoil and score one seed's corpus below ``seed-N/`` and return the facts of it.

    ``tokens.npy`` (n, L) and ``pool.parquet`` are the pool, row for row; ``proxies.npy`` and ``final.npy`` the
    held-out passages (2, h, L).
    """
    from tokenizers import Tokenizer

    here, source = folder / f"seed-{seed}", folder / "passages"
    here.mkdir(exist_ok=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names: list[str] = json.loads((source / "done.json").read_text())
    targets = targets_of(names)
    held: dict[str, list[NDArray[np.uint16]]] = {"proxies": [], "final": []}
    pool: list[tuple[str, NDArray[np.uint16], NDArray[np.int64]]] = []
    labelled: list[tuple[str, NDArray[np.uint16]]] = []
    names = [*targets, *(name for name in names if name not in targets)]
    for number, name in enumerate(names):
        tokens, document = np.load(source / f"{name}.npy"), np.load(source / f"{name}.documents.npy")
        groups = by_document(document, stream(SEED, "quadmix documents", seed, name))
        if name in targets:
            for side in held:
                held[side].append(tokens[take(groups, settings.held_out, name)])
        rows = stream(SEED, "quadmix rows", seed, name).permutation(np.concatenate([*groups]))
        labels = min(LABELS[number % len(LABELS)], len(rows) // 10)
        labelled.append((name, tokens[rows[:labels]]))
        rows = np.sort(rows[labels : labels + settings.per_domain])
        pool.append((name, tokens[rows], rows))

    ids = [f"{name}/{row}" for name, _, rows in pool for row in rows.tolist()]
    domain = np.repeat([name for name, _, _ in pool], [len(rows) for _, _, rows in pool])
    tokens = np.concatenate([found for _, found, _ in pool])
    shares = spoilt_shares({name: len(rows) for name, _, rows in pool}, targets, settings.spoilt)
    id_hash = hash_ids(ids)
    hit = coins(id_hash, seed, "spoilt") < np.array([shares[name] for name in domain.tolist()])
    kind = np.where(hit, np.array(KINDS)[(coins(id_hash, seed, "kind") * len(KINDS)).astype(int)], "")
    bad = np.flatnonzero(hit)
    tokens[bad] = spoil(tokens[bad], kind[bad].tolist(), [ids[i] for i in bad.tolist()], tokenizer, seed)
    texts = tokenizer.decode_batch(tokens.tolist())

    table = pa.table(
        {
            "doc_id": ids,
            "id_hash": id_hash,
            "domain": domain.tolist(),
            "split": pa.repeat("train", len(ids)),
            "tokens": np.full(len(ids), settings.length, dtype=np.int64),
            "kind": kind.tolist(),
            SCORES[0]: exchanged(quality(labelled, texts, tokenizer, here, seed), domain, 0, seed),
            SCORES[1]: exchanged(density(texts, settings.length), domain, 1, seed),
            SCORES[2]: coins(id_hash, seed, "coin").astype(np.float32),
        }
    )
    np.save(here / "tokens.npy", tokens)
    for side, found in held.items():
        np.save(here / f"{side}.npy", np.array(found))
    pq.write_table(table, here / "pool.parquet")
    return facts_of(table, targets, {name: len(rows) for name, rows in labelled})


def quality(
    labelled: Sequence[tuple[str, NDArray[np.uint16]]],
    texts: Sequence[str],
    tokenizer: Any,
    folder: Path,
    seed: int,
) -> NDArray[np.float32]:
    """``score.quality`` of all texts by a classifier of the labelled passages, every second of them spoilt."""
    from penstock.selectors.quality import QualityClassifier

    doc_id, label, text = [], [], []
    for name, rows in labelled:
        names = [f"labelled/{name}/{i}" for i in range(len(rows))]
        rows = rows.copy()
        kinds = [KINDS[i % len(KINDS)] for i in range(len(rows[1::2]))]
        rows[1::2] = spoil(rows[1::2], kinds, names[1::2], tokenizer, seed)
        doc_id += names
        label += [("spoilt" if i % 2 else "clean") for i in range(len(rows))]
        text += tokenizer.decode_batch(rows.tolist())
    fitted = QualityClassifier(
        positive=("clean",), negative=("spoilt",), seed=derive(SEED, "quality", seed) % 2**31, rows_per_side=20_000
    )
    batch = pa.RecordBatch.from_pydict(
        {"doc_id": doc_id, "id_hash": hash_ids(doc_id), "text": text, "domain": label, "split": ["train"] * len(text)}
    )
    score = fitted.fit(fitted.summarise(batch), str(folder))
    score.setup()
    found: NDArray[np.float32] = score.annotate(pa.RecordBatch.from_pydict({"text": list(texts)}))[SCORES[0]].to_numpy()
    return found


def density(texts: Sequence[str], length: int) -> NDArray[np.float32]:
    """Characters per token, rounded to 1e-4."""
    return np.array([round(len(text) / length, 4) for text in texts], dtype=np.float32)


def exchanged(score: NDArray[np.float32], domain: NDArray[Any], which: int, seed: int) -> NDArray[np.float32]:
    """The scores, in a share of each domain's passages dealt out among them at random; ``which`` of ``EXCHANGED``."""
    out = score.copy()
    for number, name in enumerate(dict.fromkeys(domain.tolist())):
        share = EXCHANGED[number % len(EXCHANGED)][which]
        rng = stream(SEED, "exchanged", seed, name, which)
        rows = np.flatnonzero(domain == name)
        rows = rows[rng.random(len(rows)) < share]
        out[rows] = score[rng.permutation(rows)]
    return out


def facts_of(table: pa.Table, targets: Sequence[str], labels: Mapping[str, int]) -> dict[str, Any]:
    """Sizes, what is spoilt, and how well each score tells clean passages from spoilt ones (AUC), by domain."""
    from sklearn.metrics import roc_auc_score

    domain, clean = table["domain"].to_numpy(), table["kind"].to_numpy() == ""
    scores = {name: table[name].to_numpy() for name in SCORES}
    return {
        "targets": list(targets),
        "passages": len(table),
        "spoilt": float((~clean).mean()),
        "auc": {name: float(roc_auc_score(clean, found)) for name, found in scores.items()},
        "domains": {
            name: {
                "passages": int((inside := domain == name).sum()),
                "spoilt": float((~clean[inside]).mean()),
                "labels": labels[name],
                "auc": {score: float(roc_auc_score(clean[inside], found[inside])) for score, found in scores.items()},
            }
            for name in dict.fromkeys(domain.tolist())
        },
    }

"""What every row work promises, whatever it computes: see ``penstock.work``."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock import seeding
from penstock.dataset import hash_json
from penstock.embedding.base import embedding_array, normalised
from penstock.pipelines.documents import TextBytes
from penstock.selectors.benchmark_index import IndexSettings, Item, save_index
from penstock.selectors.blocklist import UrlBlocklist, WordBlocklist
from penstock.selectors.c4 import C4Lines, C4Quality
from penstock.selectors.decontaminate import Decontaminate
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.feedback import SignalScore
from penstock.selectors.fineweb import FineWebQuality
from penstock.selectors.gopher import GopherQuality, GopherRepetition
from penstock.selectors.kmeans import SIMILARITY, KMeans
from penstock.selectors.language import LanguageFilter, LanguageId
from penstock.selectors.licenses import LicenseFilter
from penstock.selectors.minhash import MinHash
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.pii import PiiFilter, PiiMask, PiiRules
from penstock.selectors.quadmix import (
    MERGED,
    Criterion,
    CriterionHistograms,
    DomainParameters,
    MergedHistograms,
    MergedScore,
    QuaDMixParameters,
    QuaDMixSample,
)
from penstock.selectors.quality import QualityClassifier, QualityScore
from penstock.selectors.refinedweb import RefinedWebLines, RefinedWebQuality
from penstock.selectors.repair import RepairEncoding
from penstock.selectors.repeated import RepeatedLines, RepeatedParagraphs
from penstock.selectors.scope import EditExceptDomains, ExceptDomains
from penstock.selectors.semantic import SemanticDuplicates
from penstock.selectors.splits import AssignSplit
from penstock.selectors.substring import RepeatedSubstrings
from penstock.sources.base import documents_batch
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.bytelevel.alignment import AlignTokenizers
from penstock.tokenization.encode import Encode
from penstock.tokenization.patches.byte_lm import train_byte_lm
from penstock.tokenization.patches.equal_info import EncodeEqualInfo
from penstock.work import Annotator, Filter, Fitted, Grouped, describe

ROWS = 96
SENTENCES = (
    "the water of the river turns the wheel of the mill and that is what we have to be glad of.",
    "a letter in the morning says that the bridge has to be closed with the coming of winter.",
    "copper copper copper copper copper copper copper copper copper copper copper copper",
    "Kurz und gut: die Brücke bleibt im Winter zu, und das Wasser steht hoch.",
    "cafe\u0301 \u1112\u1161\u11ab \x00 control \x85 characters \U0001f600",
    "   \n\t ",
    "",
    "• one\n• two\n• three ...\n3 likes",
)


@pytest.fixture(scope="module")
def rows():
    """Documents with every column that any row work reads; texts repeat, scores are missing here and there."""
    rng = seeding.stream(0, "contracts")
    texts = [SENTENCES[i % 8] * int(rng.integers(1, 40)) if i % 3 else SENTENCES[i % 8] for i in range(ROWS)]
    batch = documents_batch(
        [f"corpus/file.jsonl#{i}" for i in range(ROWS)],
        texts,
        source="files",
        domains=[("web", "books", "code")[int(k)] for k in rng.integers(0, 3, ROWS)],
    )

    def score(share):
        values = np.round(rng.random(ROWS), 4).astype(np.float32)
        return pa.array(values, mask=rng.random(ROWS) < share)

    columns = {
        "language": pa.array([("en", "de", None)[int(k)] for k in rng.integers(0, 3, ROWS)], pa.string()),
        "score.language": score(0.1),
        "score.quality": score(0.0),
        "score.style": score(0.2),
        "split": pa.array(
            [("train", "validation", "test")[int(k > 7) + int(k > 8)] for k in rng.integers(0, 10, ROWS)]
        ),
        "tokens": pa.array(rng.integers(1, 900, ROWS).astype(np.int32)),
        MERGED: pa.array(rng.random(ROWS).astype(np.float32)),
        # a few directions with a little noise, some rows without a vector
        "embedding": embedding_array(
            normalised(
                (np.eye(8)[rng.integers(0, 5, ROWS)] + rng.normal(0, 0.1, (ROWS, 8))) * (rng.random((ROWS, 1)) > 0.1)
            )
        ),
        "group": pa.array([("sea", "law", "none")[int(k)] for k in rng.integers(0, 3, ROWS)]),
        SIMILARITY: pa.array(np.round(rng.random(ROWS), 1).astype(np.float32)),
    }
    for name, column in columns.items():
        batch = batch.append_column(name, column)
    origin = {
        "url": pa.array([("https://a.x.org/b", "http://y.org", None)[i % 3] for i in range(ROWS)]),
        "license": pa.array([("MIT", "GPL-2.0-only OR mit", "mine", None)[i % 4] for i in range(ROWS)]),
    }
    batch = batch.append_column("pii", pa.array([(None, ["email"], ["ip", "email"])[i % 3] for i in range(ROWS)]))
    for name, column in origin.items():
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch


PARAMETERS = QuaDMixParameters(
    criteria=(
        Criterion(column="score.quality", direction="higher"),
        Criterion(column="score.style", direction="lower"),
    ),
    default=DomainParameters(alpha=(0.5, 0.5), lam=10.0, omega=0.5, eta=1.0, eps=0.2),
    domains=(("code", DomainParameters(alpha=(1.0, 0.0), lam=5.0, omega=0.9, eta=0.5, eps=0.0)),),
    omega_max=1.0,
    eps_max=1.0,
)
CLASSIFIER = QualityClassifier(positive=("books",), negative=("web", "code"), seed=3, rows_per_side=20)

PLAIN = {
    "Normalise": Normalise(),
    "NotEmpty": NotEmpty(),
    "RepairEncoding": RepairEncoding(fixes=("encoding", "html", "quotes")),
    "GopherQuality": GopherQuality(min_words=5),
    "GopherRepetition": GopherRepetition(),
    "LanguageId": LanguageId(characters=200),
    "LanguageFilter": LanguageFilter(languages=("en",)),
    "ExceptDomains": ExceptDomains(inner=GopherQuality(min_words=5), domains=("code",)),
    "EditExceptDomains": EditExceptDomains(inner=RefinedWebLines(), domains=("code",)),
    "C4Lines": C4Lines(),
    "C4Quality": C4Quality(),
    "FineWebQuality": FineWebQuality(),
    "RefinedWebLines": RefinedWebLines(),
    "RefinedWebQuality": RefinedWebQuality(),
    "PiiMask": PiiMask(),
    "PiiFilter": PiiFilter(rules=PiiRules(email="drop")),
    "LicenseFilter": LicenseFilter(allow=("MIT",), unknown="drop"),
    "ExactDuplicates": ExactDuplicates(),
    "KMeans": KMeans(seed=3, clusters=3, points_per_cluster=9),
    "SemanticDuplicates": SemanticDuplicates(threshold=0.9),
    "MinHash": MinHash(),
    "RepeatedLines": RepeatedLines(),
    "RepeatedParagraphs": RepeatedParagraphs(keep="rare", max_count=2),
    "RepeatedSubstrings": RepeatedSubstrings(min_words=20, window=4),
    "AssignSplit": AssignSplit(seed=1, validation=0.2, test=0.1),
    "QualityClassifier": CLASSIFIER,
    "CriterionHistograms": CriterionHistograms(parameters=PARAMETERS),
    "CriterionHistograms of domains": CriterionHistograms(
        parameters=dataclasses.replace(PARAMETERS, normalizer_scope="domain")
    ),
    "MergedHistograms": MergedHistograms(parameters=PARAMETERS, seed=5),
    "TextBytes": TextBytes(),
}
FROM_FILES = (
    "UrlBlocklist",
    "WordBlocklist",
    "AssignGroups",
    "QualityScore",
    "MergedScore",
    "QuaDMixSample",
    "SignalScore",
    "Encode",
    "AlignTokenizers",
    "EncodeEqualInfo",
    "Decontaminate",
)


@pytest.fixture(scope="module")
def works(rows, tmp_path_factory):
    """One object of every row work; those with an artifact read one that was made from ``rows``."""
    folder = tmp_path_factory.mktemp("artifacts")
    seen = pa.table(
        {"doc_id": rows["doc_id"][::3], "excess_loss": np.linspace(-1, 1, len(rows[::3])).astype(np.float32)}
    )
    pq.write_table(seen, folder / "signals.parquet")
    tokenizer = train_bpe(SENTENCES, BPEConfig(vocabulary_size=300))
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "smaller.json").write_bytes(train_bpe(SENTENCES, BPEConfig(vocabulary_size=280)))
    byte_lm, byte_lm_digest = train_byte_lm(SENTENCES, 3).save(str(folder / "byte-lm"))
    (folder / "words.txt").write_text("copper\nx.org\n")
    train = pa.array(["train"] * ROWS)
    alike = rows.set_column(rows.schema.names.index("split"), "split", train)
    index = save_index(str(folder), [Item("bench", "bench#0", SENTENCES[0])], IndexSettings())
    return PLAIN | {
        "Decontaminate": Decontaminate(path=index.path, digest=index.digest),
        "UrlBlocklist": UrlBlocklist(domains=(str(folder / "words.txt"),)),
        "WordBlocklist": WordBlocklist(lists=(str(folder / "words.txt"),)),
        "AssignGroups": fitted(PLAIN["KMeans"], rows, str(folder)),
        "QualityScore": CLASSIFIER.fit(CLASSIFIER.summarise(alike), str(folder)),
        "MergedScore": fitted(PLAIN["CriterionHistograms"], rows, folder),
        "QuaDMixSample": fitted(PLAIN["MergedHistograms"], rows, folder),
        "SignalScore": SignalScore(path=str(folder / "signals.parquet"), digest=sha256(folder / "signals.parquet")),
        "Encode": Encode(tokenizer_file=str(folder / "tokenizer.json"), sha256=hashlib.sha256(tokenizer).hexdigest()),
        "AlignTokenizers": AlignTokenizers(
            first_file=str(folder / "tokenizer.json"),
            first_sha256=hashlib.sha256(tokenizer).hexdigest(),
            second_file=str(folder / "smaller.json"),
            second_sha256=sha256(folder / "smaller.json"),
        ),
        "EncodeEqualInfo": EncodeEqualInfo(model=byte_lm, digest=byte_lm_digest),
    }


def fitted(work, batch, folder):
    return work.fit(work.summarise(batch), str(folder))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=[*PLAIN, *FROM_FILES])
def work(request, works):
    return works[request.param]


def output(work, batches):
    """What a work makes of a table that comes in batches, in a form that can be compared."""
    if isinstance(work, Filter):
        return pa.concat_arrays([work.decide(batch) for batch in batches])
    if isinstance(work, Annotator):
        return pa.concat_tables([pa.table(work.annotate(batch)) for batch in batches]).combine_chunks()
    if isinstance(work, Fitted):
        return reduce(lambda one, two: one.merge(two), [work.summarise(batch) for batch in batches]).to_table()
    keys = pa.concat_tables([work.keyed(batch) for batch in batches])
    return work.judge(keys)


def cut(batch, pieces):
    edges = np.linspace(0, batch.num_rows, pieces + 1).astype(int)
    return [batch.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]


def test_the_table_of_works_is_complete():
    import penstock.selectors
    import penstock.tokenization
    import penstock.tokenization.bytelevel
    import penstock.tokenization.patches

    found = {"TextBytes": TextBytes}
    packages = (penstock.tokenization, penstock.tokenization.bytelevel, penstock.tokenization.patches)
    for package in (penstock.selectors, *packages):
        for module in pkgutil.iter_modules(package.__path__):
            contents = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            found |= {n: v for n, v in contents.items() if isinstance(v, type) and {"reads", "adds"} <= set(dir(v))}
    assert set(found) == {name.partition(" ")[0] for name in (*PLAIN, *FROM_FILES)}


def test_names_are_keys_of_statistics_and_therefore_different(works):
    names = [work.name for name, work in works.items() if "ExceptDomains" not in name and " " not in name]
    assert len(set(names)) == len(names)
    assert works["ExceptDomains"].name == works["GopherQuality"].name
    assert works["EditExceptDomains"].name == works["RefinedWebLines"].name


def test_a_work_is_one_of_the_four_shapes(work):
    assert sum(isinstance(work, shape) for shape in (Filter, Annotator, Fitted, Grouped)) == 1


def test_a_work_is_a_frozen_dataclass_with_named_parameters(work):
    assert dataclasses.is_dataclass(work)
    assert all(field.kw_only for field in dataclasses.fields(work))
    for name in ("revision", *(field.name for field in dataclasses.fields(work))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(work, name, None)
    assert dataclasses.replace(work) == work


def test_a_pickled_work_is_equal_and_small_after_use(work, rows):
    output(work, [rows])
    data = pickle.dumps(work)
    assert pickle.loads(data) == work  # noqa: S301 (made above)
    assert len(data) < 4096, "models and tables do not travel with the work"


def test_a_description_is_json_with_everything_that_tells_two_works_apart(work):
    said = json.loads(json.dumps(describe(work)))
    assert said["name"] == work.name
    assert said["revision"] == work.revision >= 1
    assert set(said["config"]) == {field.name for field in dataclasses.fields(work)}


def test_constructing_a_work_touches_no_file():
    gone = {"path": "/no/such/file.json", "digest": "0" * 64}
    QualityScore(**gone)
    MergedScore(parameters=PARAMETERS, **gone)
    QuaDMixSample(seed=1, **gone)
    SignalScore(**gone)
    Decontaminate(**gone)
    UrlBlocklist(domains=("/no/such/list.txt",))
    WordBlocklist(lists=("/no/such/list.txt",))
    Encode(tokenizer_file="/no/such/file.json", sha256="0" * 64)
    EncodeEqualInfo(model="/no/such/model.json", digest="0" * 64)
    AlignTokenizers(first_file="/a.json", first_sha256="0" * 64, second_file="/b.json", second_sha256="0" * 64)


def test_description_and_output_are_the_same_in_another_process(works, rows, tmp_path):
    code = (
        "import json, pickle, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('test_contracts', sys.argv[2])\n"
        "contracts = importlib.util.module_from_spec(spec); spec.loader.exec_module(contracts)\n"
        "works, rows = pickle.load(open(sys.argv[3], 'rb'))\n"
        "print(json.dumps(contracts.told(works, rows)))\n"
    )
    (tmp_path / "works").write_bytes(pickle.dumps((works, rows)))
    done = subprocess.run(
        [sys.executable, "-c", code, os.getcwd(), __file__, str(tmp_path / "works")],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == told(works, rows)


def told(works, rows):
    """Description and output of every work, as a hash."""
    return {name: [hash_json(describe(work)), repr(output(work, [rows]).to_pylist())] for name, work in works.items()}


class Recording:
    """A batch that knows which of its columns were looked at."""

    def __init__(self, batch, touched):
        self._batch, self.touched = batch, touched
        self.num_rows, self.schema = batch.num_rows, batch.schema

    def __getitem__(self, name):
        self.touched.add(name)
        return self._batch[name]

    def select(self, names):
        self.touched.update(names)
        return self._batch.select(names)

    def take(self, rows):
        return Recording(self._batch.take(rows), self.touched)

    def filter(self, mask):
        return Recording(self._batch.filter(mask), self.touched)


def test_declared_columns_are_the_columns_touched(work, rows):
    touched = set()
    output(work, [Recording(rows, touched)])
    # who changes the text moves `learn`, and takes over known hashes, where the batch has them, and asks for neither
    assert set(work.reads) <= touched <= {*work.reads, "learn", "content_hash"}
    assert len(set(work.reads)) == len(work.reads)
    if isinstance(work, Annotator):
        assert tuple(work.annotate(rows)) == work.adds
        assert all(len(column) == ROWS for column in work.annotate(rows).values())
    else:
        assert work.adds == ()


def test_declared_columns_are_enough(work, rows):
    assert output(work, [rows.select(list(dict.fromkeys([*work.reads, "learn"])))]).equals(output(work, [rows]))


@pytest.mark.parametrize("how", ["no rows", "a slice of none", "no buffers"])
def test_an_empty_batch_gives_an_empty_result_of_the_same_types(work, rows, how):
    empty = {
        "no rows": rows.schema.empty_table().combine_chunks().to_batches()
        or [pa.RecordBatch.from_pylist([], rows.schema)],
        "a slice of none": [rows.slice(7, 0)],
        "no buffers": [
            pa.RecordBatch.from_arrays([pa.array([], field.type) for field in rows.schema], schema=rows.schema)
        ],
    }[how]
    some, none = output(work, [rows]), output(work, empty)
    assert len(none) == 0
    if isinstance(work, Filter):
        assert none.type == some.type == pa.string()
    else:
        assert none.schema == some.schema
    assert output(work, [*empty, rows, *empty]).equals(some)


@pytest.mark.parametrize("pieces", [3, 8, ROWS])
def test_the_result_does_not_depend_on_how_a_table_is_cut(work, rows, pieces):
    assert output(work, cut(rows, pieces)).equals(output(work, [rows]))


def test_a_slice_of_a_larger_batch_is_read_where_it_lies(work, rows):
    around = pa.Table.from_batches([rows.slice(40, 5), rows, rows.slice(3, 2)]).combine_chunks().to_batches()[0]
    inside = around.slice(5, ROWS)
    assert inside["text"].offset == 5
    assert output(work, [inside]).equals(output(work, [rows]))


def test_filters_give_a_reason_or_null_for_each_row(works, rows):
    for work in works.values():
        if isinstance(work, Filter):
            reasons = work.decide(rows)
            assert len(reasons) == ROWS
            assert 0 < reasons.null_count < ROWS, f"{work.name}: the rows do not try both outcomes"
            assert "" not in reasons.to_pylist()


def test_summaries_travel_as_tables_and_merge_in_any_order(works, rows):
    pieces = cut(rows, 5)
    for work in works.values():
        if isinstance(work, Fitted):
            kind = type(work.summarise(rows))
            parts = [kind.from_table(work.summarise(piece).to_table()) for piece in pieces]
            whole = work.summarise(rows).to_table()
            assert whole.num_rows > 0
            for order in ((4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
                merged = reduce(lambda one, two: one.merge(two), [parts[i] for i in order])
                assert merged.to_table().equals(whole)


def test_fitting_equal_summaries_gives_the_same_artifact(works, rows, tmp_path):
    for name in ("CriterionHistograms", "MergedHistograms"):
        first, second = (fitted(works[name], rows, tmp_path / place) for place in ("one", "two"))
        assert first.digest == second.digest
        assert first.path != second.path


def test_setup_warms_up_and_changes_nothing(work, rows):
    before = output(work, [rows])
    if hasattr(work, "setup"):
        work.setup()
    assert output(work, [rows]).equals(before)


# ── what every module keeps to ───────────────────────────────────────────────────────────────────

ROOT = Path(penstock.__file__).parent


def test_constructors_tell_users_what_is_wrong_in_words():
    """``assert`` is gone under ``python -O`` and gives no advice: it is for our own mistakes."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__post_init__"):
                assert not any(isinstance(inner, ast.Assert) for inner in ast.walk(node)), f"{path}:{node.lineno}"


def test_no_module_is_too_long_to_be_read_at_once():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 500} == {}, "split it: one algorithm a file"

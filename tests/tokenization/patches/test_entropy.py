"""Patches: every rule against its formula, lengths that sum to the bytes, boundaries that appended text cannot move."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.patches.byte_lm import bytes_of, entropies, train_byte_lm
from penstock.tokenization.patches.entropy import PatchRule, patch_starts, segment, threshold_for
from penstock.tokenization.patches.schema import PATCHES, boundaries, patches_batch, read_patches, write_patches

MODEL = train_byte_lm(["the gate lets water in, the wheel turns\n" * 5, "水轮机 turns. 42 times"] * 3, 4)
CAUSAL = (
    PatchRule(rule="global", threshold=1.2),
    PatchRule(rule="monotonic", threshold=0.3),
    PatchRule(rule="combined", threshold=0.8, rise=0.1),
    PatchRule(rule="space"),
    PatchRule(rule="global", threshold=1.2, most_bytes=3),
    PatchRule(rule="global", threshold=1.2, reset_at_newline=True),
)
EVERY = (*CAUSAL, PatchRule(rule="budget", patch_size=3.0))
TEXT = st.text(alphabet="the gatelswr in,42\n水轮é", max_size=40)


def cut(rule, texts):
    return segment(rule, [str(i) for i in range(len(texts))], pa.array(texts), MODEL if rule.by_entropy else None)


def by_formula(rule, raw, nats):
    """Where patches begin, one position after another."""
    starts = set(range(min(2, len(raw))))
    like_space = [not (chr(b).isascii() and chr(b).isalnum()) and not 0x80 <= b < 0xC0 for b in raw]
    order = sorted(range(2, len(raw)), key=lambda i: (-nats[i], i)) if rule.rule == "budget" else []
    for i in range(2, len(raw)):
        if rule.rule == "global":
            begins = nats[i] > rule.threshold
        elif rule.rule == "monotonic":
            begins = nats[i] - nats[i - 1] > rule.threshold
        elif rule.rule == "combined":
            begins = nats[i] > rule.threshold and nats[i] - nats[i - 1] > rule.rise and i - 1 not in starts
        elif rule.rule == "space":
            begins = like_space[i - 1] and not like_space[i - 2]
        else:
            begins = i in order[: max(0, int(len(raw) / rule.patch_size) - 2)]
        if begins:
            starts.add(i)
    return sorted(starts)


@pytest.mark.parametrize(
    "rule", [r for r in EVERY if r.most_bytes is None], ids=lambda r: f"{r.rule}{r.reset_at_newline}"
)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT, max_size=4))
def test_boundaries_are_those_of_the_formula(rule, texts):
    texts = pa.array(texts, pa.string())
    data, bounds = bytes_of(texts)
    nats = entropies(MODEL, texts, reset_at_newline=rule.reset_at_newline)
    found = patch_starts(rule, data, bounds, nats)
    for i, text in enumerate(texts.to_pylist()):
        here = slice(bounds[i], bounds[i + 1])
        assert np.flatnonzero(found[here]).tolist() == by_formula(rule, text.encode(), nats[here])


@pytest.mark.parametrize("rule", EVERY, ids=lambda r: f"{r.rule}-{r.most_bytes}-{r.reset_at_newline}")
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXT, max_size=4))
def test_patches_tile_their_text_and_the_mask_says_the_same(rule, texts):
    batch = cut(rule, texts)
    assert batch.schema.equals(PATCHES)
    for lengths, begins, raw in zip(
        batch["patch_lengths"].to_pylist(), boundaries(batch), batch["bytes"].to_pylist(), strict=True
    ):
        assert sum(lengths) == len(raw)
        assert all(length >= 1 for length in lengths)
        assert np.flatnonzero(begins).tolist() == [0, *np.cumsum(lengths)[:-1].tolist()][: len(lengths)]
        if rule.most_bytes is not None:
            assert max(lengths, default=0) <= rule.most_bytes


@pytest.mark.parametrize("rule", [r for r in CAUSAL], ids=lambda r: f"{r.rule}-{r.most_bytes}-{r.reset_at_newline}")
@settings(max_examples=30, deadline=None)
@given(text=TEXT, more=TEXT)
def test_appended_text_moves_no_boundary(rule, text, more):
    before = boundaries(cut(rule, [text]))[0]
    after = boundaries(cut(rule, [text + more]))[0]
    assert np.array_equal(after[: before.size], before)


def test_a_budget_is_kept_to_and_may_move():
    rule = PatchRule(rule="budget", patch_size=4)
    text = "the gate lets water in, 42 times"
    assert int(boundaries(cut(rule, [text]))[0].sum()) == len(text) // 4
    moved = boundaries(cut(rule, [text + " zzzz水qq"]))[0][: len(text)]
    assert not np.array_equal(moved, boundaries(cut(rule, [text]))[0])


def test_a_threshold_for_a_mean_size_gives_about_that():
    texts = pa.array(["the gate lets water in, the wheel turns 42 times\n" * 20])
    nats = entropies(MODEL, texts)
    for size in (2.0, 4.0):
        rule = PatchRule(rule="global", threshold=threshold_for("global", nats, size))
        lengths = cut(rule, texts.to_pylist())["patch_lengths"].to_pylist()[0]
        assert np.mean(lengths) == pytest.approx(size, rel=0.2)
    with pytest.raises(ConfigError, match="rule: got 'budget'"):
        threshold_for("budget", nats, 4.0)
    with pytest.raises(ConfigError, match="patch_size"):
        threshold_for("global", np.zeros(0), 4.0)


def test_a_file_of_patches_is_read_back_and_its_damage_is_seen(tmp_path):
    path = str(tmp_path / "patches.arrow")
    batches = [cut(EVERY[0], ["the gate", "", "水 in"]), cut(PatchRule(rule="space"), ["a b c"])]
    assert write_patches(path, batches) == 4
    found = list(read_patches(path))
    assert [batch.to_pylist() for batch in found] == [batch.to_pylist() for batch in batches]
    assert found[0]["entropies"].type == pa.list_(pa.float16())
    assert found[1]["entropies"].null_count == 1
    assert json.loads(found[0]["params"][0].as_py()) == {"reset_at_newline": False, "threshold": 1.2}
    broken = batches[1].set_column(
        2, PATCHES.field("patch_lengths"), pa.array([[2, 2]], PATCHES.field("patch_lengths").type)
    )
    write_patches(path, [broken])
    with pytest.raises(DatasetError, match="do not fit its 5 bytes"):
        list(read_patches(path))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_patches(str(tmp_path / "none.arrow")))


def test_the_mask_holds_where_entropies_in_16_bits_would_not():
    # 1.2001 rounds to 1.2002 in 16 bits, above a threshold that it does not pass
    nats = np.array([0.0, 0.0, 1.2001, 0.0])
    data, bounds = bytes_of(pa.array(["abcd"]))
    rule = PatchRule(rule="global", threshold=1.20015)
    assert patch_starts(rule, data, bounds, nats).tolist() == [True, True, False, False]
    assert patch_starts(rule, data, bounds, nats.astype(np.float16).astype(float)).tolist() == [True, True, True, False]


def test_patches_that_do_not_fit_are_refused():
    texts = pa.array(["abc", "de"])
    for lengths, counts in (([3, 3], [1, 1]), ([3, 2], [2, 0]), ([3, 2, 0], [1, 2]), ([5], [1, 0])):
        with pytest.raises(DatasetError, match="patches: got"):
            patches_batch(["a", "b"], texts, np.array(lengths), np.array(counts), rule="x", params={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "syllable"}, "rule: got 'syllable'"),
        ({"rule": "global"}, "threshold: got None for the rule global"),
        ({"rule": "global", "threshold": float("nan")}, "threshold: got nan"),
        ({"rule": "combined", "threshold": 1.0}, "rise: got None"),
        ({"rule": "space", "threshold": 1.0}, "threshold: got 1.0 for the rule space, allowed none"),
        ({"rule": "budget", "patch_size": 0.5}, "patch_size: got 0.5"),
        ({"rule": "space", "most_bytes": 0}, "most_bytes: got 0"),
        ({"rule": "space", "reset_at_newline": True}, "reads no entropies"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PatchRule(**options)


def test_a_model_is_given_exactly_where_it_is_read():
    with pytest.raises(ConfigError, match="got none for the rule global"):
        segment(EVERY[0], ["a"], pa.array(["a"]))
    with pytest.raises(ConfigError, match="got one for the rule space"):
        segment(PatchRule(rule="space"), ["a"], pa.array(["a"]), MODEL)

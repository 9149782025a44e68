"""Equal-Info Windows: codes that fit, spans that tile, a decoder that gives the text back, a model that learns."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.packing import pack, to_batch, write_sequences
from penstock.tokenization.patches.byte_lm import train_byte_lm
from penstock.tokenization.patches.equal_info import (
    EncodeEqualInfo,
    Windows,
    decode_windows,
    encode_windows,
    window_patches,
)

PLAIN = ["the gate lets water in, the wheel turns the stone\n" * 4, "水轮机 turns. 42 times"]
MODEL = train_byte_lm(PLAIN * 3, 4)
ONE = 1 << 46


def code_of(raw, bits):
    """The code of bytes by whole numbers without a bound, one step at a time; None when it does not fit."""
    low, width = 0, ONE
    for i, byte in enumerate(raw):
        p = np.round(MODEL.probabilities(raw[:i]) * (1 << 30)).astype(object)
        frequencies = [1 + int(x) * ((1 << 16) - 256) // (1 << 30) for x in p]
        total, under = sum(frequencies), sum(frequencies[:byte])
        bottom = low + width * under // total
        top = low + width * (under + frequencies[byte]) // total
        low, width = bottom, top - bottom
    grid = ONE >> bits
    point = -(-low // grid)
    return point if point * grid < low + width else None


@pytest.mark.parametrize("bits", [16, 24])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([t.encode() for t in PLAIN])), max_size=4))
def test_codes_fit_windows_tile_and_decoding_gives_the_text_back(bits, texts):
    found = encode_windows(MODEL, pa.array(texts, pa.binary()), bits)
    assert found.counts.sum() == len(found.codes) == len(found.lengths)
    if len(found.codes):
        assert found.codes.min() >= 0
        assert found.codes.max() < 1 << bits
        assert found.lengths.min() >= 1
    assert found.lengths.sum() == sum(map(len, texts))
    assert decode_windows(MODEL, found, bits) == texts


@pytest.mark.parametrize("bits", [16, 24])
@settings(max_examples=20, deadline=None)
@given(raw=st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([t.encode()[:60] for t in PLAIN])))
def test_every_window_is_the_longest_that_fits(bits, raw):
    found = encode_windows(MODEL, pa.array([raw], pa.binary()), bits)
    at = 0
    for code, length in zip(found.codes.tolist(), found.lengths.tolist(), strict=True):
        assert code_of(raw[at : at + length], bits) == code
        if at + length < len(raw):
            assert code_of(raw[at : at + length + 1], bits) is None
        at += length


def test_a_window_depends_on_nothing_before_it():
    text = PLAIN[0].encode()
    whole = encode_windows(MODEL, pa.array([text], pa.binary()))
    skip = int(whole.lengths[:3].sum())
    rest = encode_windows(MODEL, pa.array([text[skip:]], pa.binary()))
    assert np.array_equal(rest.codes, whole.codes[3:])


def test_text_like_that_of_the_model_takes_fewer_windows():
    known = encode_windows(MODEL, pa.array([PLAIN[0]]))
    noise = encode_windows(MODEL, pa.array([random.Random(0).randbytes(len(PLAIN[0]))], pa.binary()))
    assert len(PLAIN[0]) / len(known.codes) > 2.5 * len(PLAIN[0]) / len(noise.codes)


def test_windows_are_patches():
    batch = window_patches(MODEL, ["a", "b"], pa.array(["the gate", ""]), model_revision="m")
    assert sum(batch["patch_lengths"][0].as_py()) == 8
    assert batch["patch_lengths"][1].as_py() == []
    assert set(batch["rule"].to_pylist()) == {"equal_info"}
    assert batch["model_revision"].to_pylist() == ["m", "m"]


@pytest.fixture
def saved(tmp_path):
    model, digest = MODEL.save(str(tmp_path / "model"))
    return {"model": model, "digest": digest}


@pytest.mark.parametrize(
    ("options", "per_code", "size"),
    [({}, 2, 258), ({"vocabulary": 65_536}, 1, 65_538), ({"bits": 24}, 3, 258)],
)
def test_ids_are_codes_high_bits_first_with_the_end_behind(saved, options, per_code, size):
    work = EncodeEqualInfo(**saved, **options)
    assert work.size == size
    texts = pa.array(["the gate lets", "", "水"])
    out = work.annotate(pa.record_batch({"text": texts}))
    found = encode_windows(MODEL, texts, work.bits)
    assert out["tokens"].to_pylist() == [n * per_code + 1 for n in found.counts]
    base = work.vocabulary
    codes = []
    for ids in out["token_ids"].to_pylist():
        assert ids[-1] == 0
        digits = [i - 2 for i in ids[:-1]]
        assert all(0 <= digit < base for digit in digits)
        for at in range(0, len(digits), per_code):
            value = 0
            for digit in digits[at : at + per_code]:
                value = value * base + digit
            codes.append(value)
    assert codes == found.codes.tolist()
    again = Windows(
        np.array(codes), np.concatenate([np.array(x, int) for x in out["patch_lengths"].to_pylist()]), found.counts
    )
    assert decode_windows(MODEL, again, work.bits) == [text.encode() for text in texts.to_pylist()]
    assert out["token_ids"].type.value_type == (pa.uint16() if size <= 65_536 else pa.uint32())
    empty = work.annotate(pa.record_batch({"text": pa.array([], pa.string())}))
    assert all(len(column) == 0 for column in empty.values())


def test_the_packer_and_the_loop_take_them(saved, tmp_path):
    from penstock.training.config import ModelConfig, TrainConfig, TrainData
    from penstock.training.loop import train

    work = EncodeEqualInfo(**saved)
    texts = [PLAIN[0][i:] for i in range(40)]
    out = work.annotate(pa.record_batch({"text": pa.array(texts)}))
    ids = out["token_ids"]
    offsets = np.asarray(ids.offsets).astype(np.int64)
    packed = pack(
        pa.array([f"d{i}" for i in range(40)]), ids.flatten().to_numpy(), offsets,
        length=32, tail="pad", min_segment=1, pad_id=1,
    )  # fmt: skip
    path = tmp_path / "text.arrow"
    with path.open("wb") as sink:
        write_sequences(sink, to_batch(packed, "text"))
    data = TrainData(
        train={"text": [str(path)]}, validation={"text": [str(path)]}, tokenizer_file=None, fingerprint="w",
        vocab_size=work.size, pad_id=1, eos_id=0,
    )  # fmt: skip
    config = TrainConfig(
        steps=30, batch_size=8, model=ModelConfig(hidden_size=16, layers=1, heads=1, kv_heads=1, ffn_size=32),
        mixture="proportional", learning_rate=0.02, warmup_steps=2, eval_every=30, checkpoint_every=30, device="cpu",
        threads=1, tensorboard=False,
    )  # fmt: skip
    result = train(config, data, tmp_path / "out", progress=False)
    assert result.losses[0] == pytest.approx(np.log(work.size), abs=0.3)
    assert result.validation["text"] < 0.8 * result.losses[0]


def test_what_cannot_be_coded_is_refused(saved):
    with pytest.raises(ConfigError, match="bits: got 8"):
        encode_windows(MODEL, pa.array(["a"]), 8)
    with pytest.raises(ConfigError, match="65536 with 16 bits"):
        EncodeEqualInfo(**saved, bits=24, vocabulary=65_536)
    with pytest.raises(ConfigError, match="model: got nothing"):
        EncodeEqualInfo(model="", digest="0")
    with pytest.raises(DatasetError, match="1 null"):
        EncodeEqualInfo(**saved).annotate(pa.record_batch({"text": pa.array(["a", None])}))
    with pytest.raises(DatasetError, match="allowed 16 bits"):
        decode_windows(MODEL, Windows(np.array([1 << 16]), np.array([1]), np.array([1])))
    with pytest.raises(DatasetError):
        EncodeEqualInfo(model=saved["model"], digest="0" * 64).setup()

"""A network that gives rows to spellings, and its training."""

import json
from dataclasses import replace

import pytest
import torch

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.embeddings import CompositionRows
from penstock.tokenization.dynamic.hypernet import Hypernet, HypernetRows, HypernetShape, spellings
from penstock.tokenization.dynamic.hypernet_training import HypernetConfig, lifted, train_hypernet
from penstock.tokenization.dynamic.tokenizer_sampling import SamplerConfig
from penstock.tokenization.dynamic.wrappers import DynamicModel

SHAPE = HypernetShape(hidden=32, layers=1, heads=4, feed_forward=48, pieces=4)


@pytest.fixture
def config(model_folder, tmp_path):
    texts = tmp_path / "texts.jsonl"
    words = "the low tower and lower town lowered the lowest bridge newer newest things are never as new"
    words = words.split()
    rows = [" ".join(words[(i * 7 + j * 3) % len(words)] for j in range(30)) for i in range(40)]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return HypernetConfig(
        model=str(model_folder),
        texts=(str(texts),),
        output=str(tmp_path / "hypernet"),
        identity_steps=60,
        steps=12,
        batch=4,
        length=32,
        identity_batch=64,
        negatives=40,
        identity_rate=3e-3,
        rate=1e-3,
        clip=1.0,
        shape=SHAPE,
        sampler=SamplerConfig(size=320, queue=8),
        checkpoint_every=6,
        device="cpu",
    )


def network(base, width=8, both=False):
    torch.manual_seed(1)
    source = torch.randn(len(base), width) + 1.0
    other = torch.randn(len(base), width) * 2 if both else None
    return Hypernet(SHAPE, source, other).eval(), source, other


def test_rows_are_of_the_scale_of_the_source_on_both_sides(base):
    made, source, other = network(base, both=True)
    ids, mask, readable = spellings(base, [t for t in base.tokens if t], 4, len(base))
    rows = made(torch.from_numpy(ids[readable]), torch.from_numpy(mask[readable]))
    assert [one.shape for one in rows] == [(readable.sum(), 8)] * 2
    torch.testing.assert_close(rows[0].mean(0), source.mean(0), atol=1.0, rtol=0)
    assert rows[1].std() > 0.2 * other.std()


def test_a_row_depends_on_its_spelling_and_not_on_padding_or_neighbours(base):
    made, _, _ = network(base)
    tokens = [b" lowest", b"XYZ", b"low low"]
    ids, mask, readable = spellings(base, tokens, 4, len(base))
    assert readable.all()
    together = made(torch.from_numpy(ids), torch.from_numpy(mask))[0]
    changed = ids.copy()
    changed[~mask] = 7
    torch.testing.assert_close(made(torch.from_numpy(changed), torch.from_numpy(mask))[0], together)
    torch.testing.assert_close(made(torch.from_numpy(ids[1:2]), torch.from_numpy(mask[1:2]))[0], together[1:2])
    swapped = ids.copy()
    swapped[:, [0, 1]] = ids[:, [1, 0]]
    assert not torch.allclose(made(torch.from_numpy(swapped), torch.from_numpy(mask))[0], together)


def test_spellings_that_are_too_long_or_outside_the_rows_are_not_read(base):
    tokens = [b"XY", b"XYZXY", b" lowest"]
    ids, mask, readable = spellings(base, tokens, 4, len(base))
    assert readable.tolist() == [True, False, True]
    assert mask.sum(1).tolist()[:2] == [2, 0]
    assert ids[0, :2].tolist() == [base.ids[b"X"], base.ids[b"Y"]]
    assert not spellings(base, [b"X" + base.tokens[-1]], 4, len(base) - 1)[2].any()


def test_a_long_token_has_its_composed_row_and_none_that_another_beginning_shares(base):
    made, source, _ = network(base)
    rows = HypernetRows(base, source, made)
    composed = CompositionRows(base, source)
    long = [b"XYZXYA", b"XYZXYB"]
    found = rows.rows([*long, b" lowest bri", next(t for t in base.tokens if t)])
    assert torch.equal(found[:2], composed.rows(long))
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[3], source[base.ids[next(t for t in base.tokens if t)]])
    assert not torch.allclose(rows.rows([b" lowest"]), composed.rows([b" lowest"]))
    with pytest.raises(ConfigError, match="side: got 'both'"):
        HypernetRows(base, source, made, "both")


def test_drawn_tokens_stand_for_those_that_were_left_out():
    own, others = torch.tensor([[0.3, -1.0]]), torch.full((1, 12), 0.7)
    whole = torch.cat([own, others], dim=1)
    for drawn in (1, 3, 12):
        some = lifted(torch.cat([own, others[:, :drawn]], dim=1), 2, 12)
        torch.testing.assert_close(some.logsumexp(1), whole.logsumexp(1))
        assert torch.equal(some[:, :2], own)
    assert torch.equal(lifted(own, 2, 12), own)


def test_training_learns_the_identity_and_improves_on_its_beginning(config, base, llama):
    told = []
    result = train_hypernet(config, told.append)
    assert [one.stage for one in told] == ["identity"] * 10 + ["language"] * 2
    assert told[9].loss < 0.7 * told[0].loss
    assert "language 12/12: loss" in str(told[-1])
    untrained = train_hypernet(replace(config, output=config.output + "0", identity_steps=0, steps=0))
    assert result.nats_per_byte < untrained.nats_per_byte
    assert result.base_nats_per_byte == untrained.base_nats_per_byte
    assert result.tokens < result.base_tokens

    rows = HypernetRows.load(config.output, base, llama)
    reader = DynamicModel(llama, DynamicTokenizer(base), rows)
    batch = reader.tokenizer.encode(["the lowest bridge", "lowest bridge"], None)
    assert torch.isfinite(reader.next_token_nats(batch)[:1]).all()


def test_an_interrupted_run_goes_on_to_what_an_uninterrupted_one_gives(config):
    class Stop(Exception):
        pass

    for stop in (24, 66):

        def interrupt(progress, stop=stop):
            done = progress.step if progress.stage == "identity" else config.identity_steps + progress.step
            if done >= stop:
                raise Stop

        with pytest.raises(Stop):
            train_hypernet(config, interrupt)
    resumed = train_hypernet(config)
    whole = train_hypernet(replace(config, output=config.output + "-whole"))
    assert resumed.nats_per_byte == whole.nats_per_byte
    one, other = (
        torch.load(f"{config.output}{end}/checkpoint.pt", weights_only=True)["network"] for end in ("", "-whole")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_with_other_settings_is_refused(config):
    train_hypernet(replace(config, identity_steps=1, steps=0))
    with pytest.raises(ConfigError, match="a run with other settings"):
        train_hypernet(replace(config, identity_steps=2, steps=0))


def test_a_network_for_other_rows_or_an_unfinished_one_is_refused(config, base, llama, tiny_llama):
    with pytest.raises(DatasetError, match="train it to its end first"):
        HypernetRows.load(config.output, base, llama)
    train_hypernet(replace(config, identity_steps=1, steps=0))
    other = tiny_llama(len(base))
    with torch.no_grad():
        other.get_input_embeddings().weight += 0.1
    with pytest.raises(DatasetError, match="trained for another model's rows"):
        HypernetRows.load(config.output, base, other)


def test_a_tied_model_has_one_head_for_both_sides(base, tiny_llama):
    from penstock.tokenization.dynamic.hypernet import model_rows

    assert model_rows(tiny_llama(len(base)))[1] is not None
    source, none = model_rows(tiny_llama(len(base), tied=True))
    assert none is None
    made = Hypernet(SHAPE, source, none)
    assert len(made.heads) == 1


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"length": 1}, {"negatives": -1}, {"rate": 0.0}, {"lexical_weight": -0.1}, {"texts": ()}],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match="got"):
        HypernetConfig(**{"model": "m", "texts": ("t",), "output": "o", **options})
    with pytest.raises(ConfigError, match="the heads divide"):
        HypernetShape(hidden=30, heads=4)

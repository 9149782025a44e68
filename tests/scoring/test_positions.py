"""The numbers of every token of a batch: ``python -m pytest tests/scoring/test_positions.py``."""

import numpy as np
import pytest
import torch

from penstock.scoring.model import Packed
from penstock.scoring.positions import PositionReader


def made(family):
    import transformers as t

    settings = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    settings |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    if family == "plain":
        model = t.LlamaForCausalLM(t.LlamaConfig(**settings))
    elif family == "capped":
        model = t.Gemma2ForCausalLM(t.Gemma2Config(**settings, head_dim=8, final_logit_softcapping=0.7))
    elif family == "scaled":
        model = t.CohereForCausalLM(t.CohereConfig(**settings, logit_scale=0.3))
    else:
        model = t.GraniteForCausalLM(t.GraniteConfig(**settings, logits_scaling=4.0))
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model.eval()


def packed_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    ids = tuple(rng.integers(0, 32, n).astype(np.int32) for n in lengths)
    return Packed(ids, (), np.zeros(len(ids), bool), 0)


def expected(model, ids):
    """(3, n - 1) in float64 from whole logits, one text at a time."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids[None].astype(np.int64))).logits[0, :-1].double()
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * log_p**2).sum(-1) - mean**2
    return torch.stack([log_p.gather(1, torch.from_numpy(ids[1:].astype(np.int64))[:, None])[:, 0], mean, variance])


@pytest.mark.parametrize("family", ["plain", "capped", "scaled", "divided"])
@pytest.mark.parametrize("whole", [False, True], ids=["block by block", "whole"])
def test_every_token_has_its_numbers_however_the_family_makes_its_logits(family, whole):
    model = made(family)
    reader = PositionReader(model, block=5)  # no multiple of any text's length
    assert reader.logits_of is not None
    if whole:
        reader.logits_of = None
    packed = packed_of([9, 4, 2, 1, 7])
    seen = 0
    for batch in packed.batches(20):
        found = reader.read(batch)
        assert (np.diff(found.row) >= 0).all()
        for place, row in enumerate(batch.rows):
            here = found.row == place
            assert found.place[here].tolist() == list(range(1, len(packed.ids[row])))
            if here.any():
                got = np.stack([found.log_p[here], found.mean[here], found.variance[here]])
                np.testing.assert_allclose(got, expected(model, packed.ids[row]).numpy(), atol=2e-5)
                seen += here.sum()
    assert seen == 8 + 3 + 1 + 6


def test_a_head_of_an_unknown_form_is_found_out():
    odd = made("capped")
    forward = odd.forward

    def shifted(*arguments, **named):
        out = forward(*arguments, **named)
        out.logits = out.logits.abs()
        return out

    odd.forward = shifted
    reader = PositionReader(odd)
    assert reader.logits_of is None
    batch = next(packed_of([6, 3]).batches(100))
    np.testing.assert_allclose(reader.read(batch).log_p[:5], expected(odd, packed_of([6, 3]).ids[0])[0], atol=2e-5)


def test_what_fills_up_does_not_matter():
    reader = PositionReader(made("plain"))
    ids = packed_of([9, 4, 2]).ids
    one, other = (reader.read(next(Packed(ids, (), np.zeros(3, bool), filler).batches(99))) for filler in (0, 31))
    assert (one.log_p == other.log_p).all()
    assert (one.variance == other.variance).all()


def test_no_logits_of_a_whole_batch_are_made():
    reader = PositionReader(made("plain"), block=4)
    head, rows = reader.model.lm_head, []
    head.register_forward_hook(lambda module, given, out: rows.append(out.shape[0]))
    reader.read(next(packed_of([20, 20, 20]).batches(100)))
    assert max(rows) == 4
    assert sum(rows) == 57

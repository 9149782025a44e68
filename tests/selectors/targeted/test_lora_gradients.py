"""Per-example gradients of LoRA factors. Run: pytest tests/selectors/targeted/test_lora_gradients.py"""

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.scoring.model import TokenBatch
from penstock.selectors.targeted import lora_gradients
from penstock.selectors.targeted.lora import ATTENTION, LoraConfig, LoraFactors
from penstock.selectors.targeted.lora_gradients import Examples, PerExampleGradients
from penstock.selectors.targeted.projection import Projection
from penstock.training.model import pack_inputs
from penstock.training.sequences import segment_layout

LENGTHS = (9, 2, 5, 12, 7)


def texts(vocabulary=64):
    draw = np.random.default_rng(3)
    return [draw.integers(1, vocabulary, n) for n in LENGTHS]


def filled_up(rows, filler=0):
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), lengths.max()), filler, dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return TokenBatch(np.arange(len(rows)), tokens, lengths)


def packed(rows, length=16):
    """Rows of two, one, and two segments: positions restart, the mask is block-diagonal."""
    groups = [[0, 1], [2, 4], [3]]
    lengths = np.array([len(rows[i]) for group in groups for i in group])
    ids, positions = segment_layout(np.array([2, 2, 1]), lengths, length)
    tokens = np.zeros((3, length), dtype=np.int64)
    for row, group in enumerate(groups):
        whole = np.concatenate([rows[i] for i in group])
        tokens[row, : len(whole)] = whole
    order = [i for group in groups for i in group]
    return Examples.from_packed(pack_inputs(tokens, ids, positions, device=torch.device("cpu"))), order


def with_values(model, config=None, seed=5):
    factors = LoraFactors.new(model, config or LoraConfig(rank=3, alpha=6), seed=0)
    draw = torch.Generator().manual_seed(seed)
    factors.assign((torch.randn(factors.size, generator=draw) * 0.2).to(factors.vector().dtype))
    return factors


def one_by_one(model, factors, rows, learned=None):
    """Autograd's gradients, an example at a time, of the mean loss over its predicted tokens."""
    found, losses = [], []
    for i, row in enumerate(rows):
        tensors = [tensor.requires_grad_() for tensor in factors.tensors()]
        with factors.attached(model):
            tokens = torch.from_numpy(row)[None]
            logits = model(input_ids=tokens).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
            loss = each.mean() if learned is None else each[torch.from_numpy(learned[i][1:])].mean()
            gradients = torch.autograd.grad(loss, tensors)
        for tensor in tensors:
            tensor.requires_grad_(False)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
        losses.append(loss.item())
    return torch.stack(found), losses


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradients_of_a_batch_are_those_of_its_examples_alone(small_models, kind, tolerance):
    model = small_models.llama().to(kind).requires_grad_(False)
    factors = with_values(model)
    want, losses = one_by_one(model, factors, texts())
    scale = want.abs().max()
    assert all((want[i] - want[j]).abs().max() > 0.01 * scale for i in range(5) for j in range(i))

    gradients = PerExampleGradients(model, factors)
    batch = Examples.from_batch(filled_up(texts()))
    assert batch.one_a_row
    assert (gradients.matrix(batch) - want).abs().max() < tolerance * scale

    together, order = packed(texts())
    assert not together.one_a_row
    assert (gradients.matrix(together) - want[order]).abs().max() < tolerance * scale
    assert gradients.run(batch, lambda block, offset: None).tolist() == pytest.approx(losses, rel=1e-5)


def test_what_fills_up_a_row_counts_for_nothing(small_models):
    model = small_models.llama().requires_grad_(False)
    gradients = PerExampleGradients(model, with_values(model))
    one, other = (gradients.matrix(Examples.from_batch(filled_up(texts(), filler))) for filler in (0, 63))
    assert torch.allclose(one, other, rtol=0, atol=1e-6 * float(one.abs().max()))


def test_only_learned_tokens_have_a_gradient_and_an_example_without_any_has_none(small_models):
    model = small_models.llama().requires_grad_(False)
    factors = with_values(model)
    rows = texts()
    learned = [np.arange(len(row)) >= len(row) // 2 for row in rows]
    want, _ = one_by_one(model, factors, rows, learned)
    batch = filled_up([*rows, np.array([7, 8, 9]), np.array([7])])
    mask = np.zeros(batch.tokens.shape, dtype=bool)
    for i, of_row in enumerate(learned):
        mask[i, : len(of_row)] = of_row
    found = PerExampleGradients(model, factors).matrix(Examples.from_batch(batch, learned=mask))
    assert torch.allclose(found[:5], want, rtol=0, atol=1e-5 * float(want.abs().max()))
    assert not found[5:].any()


def test_weights_factors_and_random_numbers_stay_as_they_were(small_models):
    model = small_models.llama()
    factors = with_values(model)
    before, values = [p.clone() for p in model.parameters()], factors.vector()
    state = torch.random.get_rng_state()
    PerExampleGradients(model, factors).matrix(Examples.from_batch(filled_up(texts())))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(factors.vector(), values)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))


def test_a_layer_that_the_model_calls_twice_has_the_sum_of_both(small_models):
    model = small_models.llama().requires_grad_(False)
    model.model.layers[1].self_attn.q_proj = model.model.layers[0].self_attn.q_proj
    factors = with_values(model)
    assert "model.layers.1.self_attn.q_proj" not in factors.a
    want, _ = one_by_one(model, factors, texts())
    found = PerExampleGradients(model, factors).matrix(Examples.from_batch(filled_up(texts())))
    assert torch.allclose(found, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_the_loss_in_chunks_and_logits_scaled_after_the_head_have_the_same_gradients(small_models, monkeypatch):
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    scaled = CohereForCausalLM(
        CohereConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, logit_scale=0.25, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )
    ).requires_grad_(False).eval()  # fmt: skip
    plain = small_models.llama().requires_grad_(False)
    assert not PerExampleGradients(scaled, with_values(scaled)).plain_head
    monkeypatch.setattr(lora_gradients, "_PLAIN_LOGITS", 100)
    for model in (scaled, plain):
        factors = with_values(model)
        want, _ = one_by_one(model, factors, texts())
        found = PerExampleGradients(model, factors).matrix(Examples.from_batch(filled_up(texts())))
        assert torch.allclose(found, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_gradients_are_projected_as_they_come(small_models):
    model = small_models.llama().requires_grad_(False)
    gradients = PerExampleGradients(model, with_values(model))
    examples = Examples.from_batch(filled_up(texts()))
    projection = Projection(dimensions=64, seed=2)
    out, whole = projection.zeros(5), projection.zeros(5)
    calls = []
    gradients.run(examples, lambda block, offset: (calls.append(block.shape[1]), projection.add(out, block, offset)))
    projection.add(whole, gradients.matrix(examples), 0)
    assert torch.allclose(out, whole, rtol=0, atol=1e-9 * float(whole.abs().max()))
    assert len(calls) == 2 * 2 * len(ATTENTION)
    assert sum(calls) == gradients.factors.size


def test_a_layer_that_sees_some_tokens_only_is_refused(small_models):
    model = small_models.llama().requires_grad_(False)
    layer = model.model.layers[0].mlp
    whole = layer.forward
    layer.forward = lambda x: torch.nn.functional.pad(whole(x[:, :3]), (0, 0, 0, x.shape[1] - 3))
    factors = with_values(model, LoraConfig(rank=2, modules=("down_proj",)))
    with pytest.raises(ConfigError, match=r"layers.0.mlp.down_proj is called with \(5, 3, 48\) for \(5, 12\) tokens"):
        PerExampleGradients(model, factors).matrix(Examples.from_batch(filled_up(texts())))

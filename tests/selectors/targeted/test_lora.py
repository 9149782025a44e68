"""LoRA factors beside a model's layers. Run: pytest tests/selectors/targeted/test_lora.py"""

import pytest
import torch

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.targeted.lora import ATTENTION, LoraConfig, LoraFactors

TOKENS = torch.arange(1, 25).view(2, 12)


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def trained(factors, seed=1):
    """Factors with values in both A and B, as after training."""
    draw = torch.Generator().manual_seed(seed)
    factors.assign(torch.randn(factors.size, generator=draw) * 0.2)
    return factors


def test_fresh_factors_change_nothing_and_trained_ones_only_while_they_are_attached(small_models):
    model = small_models.llama()
    before = logits(model)
    fresh = LoraFactors.new(model, LoraConfig(rank=3, alpha=6), seed=0)
    with fresh.attached(model):
        assert torch.equal(logits(model), before)
    with trained(fresh).attached(model):
        assert (logits(model) - before).abs().max() > 0.01
    assert torch.equal(logits(model), before)
    with pytest.raises(ZeroDivisionError), fresh.attached(model):
        _ = 1 / 0
    assert torch.equal(logits(model), before)


def test_merged_factors_are_weights_that_compute_the_same(small_models):
    model = small_models.llama()
    factors = trained(LoraFactors.new(model, LoraConfig(rank=3, alpha=6), seed=0))
    with factors.attached(model):
        attached = logits(model)
    layer, name = model.model.layers[1].self_attn.k_proj, "model.layers.1.self_attn.k_proj"
    want = layer.weight + 2.0 * factors.b[name] @ factors.a[name]
    factors.merge(model)
    assert torch.allclose(layer.weight, want)
    assert torch.allclose(logits(model), attached, atol=1e-5)


def test_factors_as_a_vector_stand_layer_by_layer_a_before_b(small_models):
    model = small_models.llama()
    factors = trained(LoraFactors.new(model, LoraConfig(rank=2), seed=0))
    vector = factors.vector()
    names = [f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in ATTENTION]
    assert [span.name for span in factors.layout] == names
    assert factors.layout[-1].end == factors.size == len(vector)
    for span in factors.layout:
        assert torch.equal(vector[span.a : span.b].view(2, -1), factors.a[span.name])
        assert torch.equal(vector[span.b : span.end].view(-1, 2), factors.b[span.name])


def test_a_seed_decides_the_factors_and_layers_differ(small_models):
    model = small_models.llama()
    one, same, other = (LoraFactors.new(model, LoraConfig(rank=4), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.vector(), same.vector())
    assert not torch.equal(one.vector(), other.vector())
    q, k = (one.a[f"model.layers.0.self_attn.{name}"] for name in ("q_proj", "k_proj"))
    assert not torch.equal(q, k)
    assert float(q.abs().max()) <= 32**-0.5 + 1e-7
    assert float(q.std()) == pytest.approx((1 / 96) ** 0.5, rel=0.2)  # of a uniform in ±1/sqrt(32)
    assert not one.b["model.layers.0.self_attn.q_proj"].any()


def test_dropout_is_drawn_while_training_alone(small_models):
    model = small_models.llama()
    factors = trained(LoraFactors.new(model, LoraConfig(rank=2, dropout=0.5), seed=0))
    with factors.attached(model):
        assert torch.equal(logits(model), logits(model))
    with factors.attached(model, dropout=True):
        assert not torch.equal(logits(model), logits(model))


def test_a_model_without_the_named_layers_is_refused_with_the_names_that_it_has(small_models):
    with pytest.raises(ConfigError, match=r"no linear layer q_proj2; it has down_proj, gate_proj, k_proj, o_proj,"):
        LoraFactors.new(small_models.llama(), LoraConfig(modules=("q_proj2",)), seed=0)


def test_a_family_with_other_names_is_adapted_by_them():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).eval()
    wanted = r"no linear layer q_proj, k_proj, v_proj, o_proj; it has dense.*query_key_value"
    with pytest.raises(ConfigError, match=wanted):
        LoraFactors.new(model, LoraConfig(), seed=0)
    factors = LoraFactors.new(model, LoraConfig(rank=2, modules=("query_key_value",)), seed=0)
    assert list(factors.a) == ["gpt_neox.layers.0.attention.query_key_value"]


def test_values_of_another_model_are_refused(small_models):
    factors = LoraFactors.new(small_models.llama(), LoraConfig(rank=2), seed=0)
    with pytest.raises(DatasetError, match=r"got \(7,\), expected \(896,\)"):
        factors.assign(torch.zeros(7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: got 0, allowed >= 1"),
        ({"alpha": 0}, "alpha: got 0, allowed > 0"),
        ({"dropout": 1.0}, "dropout: got 1.0, allowed 0 to below 1"),
        ({"modules": ()}, "modules: got none"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**settings)

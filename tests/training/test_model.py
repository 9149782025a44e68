"""pytest tests/training/test_model.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.training.config import ModelConfig
from penstock.training.model import (
    attention_mask,
    build_model,
    check_isolation,
    logits_function,
    pack_inputs,
    predicted_tokens,
    segment_sums,
    token_losses,
)
from penstock.training.sequences import segment_layout

SMALL = ModelConfig(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(SMALL, vocab_size=50, length=12, seed=1)


def losses_by_segment(
    model: Any, rows: list[list[list[int]]], *, length: int = 12, **options: Any
) -> list[list[float]]:
    """Token losses of every segment of packed rows, by the code under test."""
    counts = np.array([len(row) for row in rows])
    lengths = np.array([len(segment) for row in rows for segment in row], dtype=np.int64)
    ids, positions = segment_layout(counts, lengths, length)
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        joined = [t for segment in row for t in segment]
        tokens[i, : len(joined)] = joined
    inputs = pack_inputs(tokens, ids, positions, device=CPU)
    with torch.no_grad():
        losses = token_losses(logits_function(model), inputs, **options)
    sums, found = segment_sums(losses, inputs)
    split = losses.split([size - 1 for size in lengths.tolist()])
    assert [float(part.sum()) for part in split] == pytest.approx(sums.tolist(), abs=1e-5)
    assert found.tolist() == [size - 1 for size in lengths.tolist()]
    return [part.tolist() for part in split]


def reference(model: Any, document: list[int]) -> list[float]:
    """Token losses of one document alone, straight from transformers: no mask, no packing."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([document])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(document[1:]), reduction="none").tolist()


ONE, TWO, THREE = [5, 6, 7, 8], [30, 31, 32, 33, 34], [9, 9, 40]


def test_packed_documents_have_the_loss_they_have_alone(model: Any) -> None:
    found = losses_by_segment(model, [[ONE, TWO, THREE], [TWO], [[3], ONE]])
    for segment, document in zip(found, [ONE, TWO, THREE, TWO, [3], ONE], strict=True):
        assert segment == pytest.approx(reference(model, document) if len(document) > 1 else [], abs=1e-5)


def test_changing_one_document_leaves_the_others_losses_to_the_last_bit(model: Any) -> None:
    before = losses_by_segment(model, [[ONE, TWO, THREE]])
    after = losses_by_segment(model, [[[44, 45, 46, 47], TWO, THREE]])
    assert after[1:] == before[1:]
    assert after[0] != before[0]


def test_cross_document_attention_lets_documents_see_what_came_before(model: Any) -> None:
    before = losses_by_segment(model, [[ONE, TWO]], cross_document_attention=True)
    after = losses_by_segment(model, [[[44, 45, 46, 47], TWO]], cross_document_attention=True)
    assert after[1] != before[1]
    # what is predicted stays the same: never the first token of a document
    whole = reference(model, ONE + TWO)
    assert before[0] == pytest.approx(whole[:3], abs=1e-5)
    assert before[1] == pytest.approx(whole[4:], abs=1e-5)


def test_the_mask_is_causal_inside_segments() -> None:
    assert attention_mask(torch.tensor([[0, 0, 1, -1]]))[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_learned_tokens_have_the_loss_and_the_gradient_of_labels_that_leave_out_the_others(model: Any) -> None:
    """transformers leaves out the labels -100; its loss is the mean over the others."""
    rows = np.array([ONE + ONE, TWO + THREE])
    learned = np.array([[0, 0, 1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 0, 0, 0]], dtype=bool)
    ids, positions = segment_layout(np.array([1, 1]), np.array([8, 8]), 8)
    labels = torch.from_numpy(np.where(learned, rows, -100))
    model.zero_grad()
    expected = model(input_ids=torch.from_numpy(rows), labels=labels).loss
    expected.backward()
    gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()

    inputs = pack_inputs(rows, ids, positions, learned, device=CPU)
    losses = token_losses(logits_function(model), inputs)
    losses.mean().backward()
    assert inputs.targets.tolist() == [7, 8, 7, 8, 33, 34]
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(model.model.embed_tokens.weight.grad, gradient, atol=1e-6)
    sums, counts = segment_sums(losses, inputs)
    assert counts.tolist() == [4, 2]
    assert sums.sum().item() == pytest.approx(6 * expected.item(), rel=1e-5)
    model.zero_grad()
    # a mask that is off by one is another loss
    shifted = pack_inputs(rows, ids, positions, np.roll(learned, 1, axis=1), device=CPU)
    assert token_losses(logits_function(model), shifted).mean().item() != pytest.approx(expected.item(), rel=1e-3)


def test_the_first_token_of_a_segment_has_no_loss_though_it_is_learned() -> None:
    ids, _ = segment_layout(np.array([2]), np.array([2, 3]), 6)
    assert predicted_tokens(ids, None).astype(int).tolist() == [[1, 0, 1, 1, 0]]
    assert predicted_tokens(ids, np.ones((1, 6), bool)).astype(int).tolist() == [[1, 0, 1, 1, 0]]
    assert predicted_tokens(ids, np.array([[1, 0, 1, 0, 1, 1]], bool)).astype(int).tolist() == [[0, 0, 0, 1, 0]]


def test_gradients_flow_from_predicted_tokens_only(model: Any) -> None:
    ids, positions = segment_layout(np.array([1]), np.array([2]), 4)
    inputs = pack_inputs(np.array([[5, 6, 49, 49]]), ids, positions, device=CPU)
    model.zero_grad()
    token_losses(logits_function(model), inputs).sum().backward()
    # tied weights get a softmax gradient everywhere; the padding's input embedding must add none to it
    plain = torch.nn.functional.cross_entropy(
        model(input_ids=torch.tensor([[5, 6]])).logits[0, :1], torch.tensor([6]), reduction="sum"
    )
    found = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    plain.backward()
    assert torch.allclose(found, model.model.embed_tokens.weight.grad, atol=1e-6)
    model.zero_grad()


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone(model: Any) -> None:
    state = torch.get_rng_state()
    again, other = (build_model(SMALL, vocab_size=50, length=12, seed=seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(again.state_dict()[name], model.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], model.state_dict()[name])


def test_the_model_has_the_shape_asked_for(model: Any) -> None:
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.num_key_value_heads, config.intermediate_size, config.vocab_size) == (2, 64, 50)
    assert (config.tie_word_embeddings, config.max_position_embeddings) == (True, 12)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    assert sum(p.numel() for p in model.parameters()) == 50 * 32 + 2 * (attention + 3 * 32 * 64 + 2 * 32) + 32


def test_untied_embeddings_and_a_longer_context_are_taken() -> None:
    changed = ModelConfig(hidden_size=32, layers=1, heads=4, kv_heads=4, tie_embeddings=False, context_length=99)
    model = build_model(changed, vocab_size=50, length=12, seed=0)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.config.max_position_embeddings == 99


def test_a_saved_model_is_loaded_with_its_weights(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    loaded = build_model(ModelConfig(path=str(tmp_path / "m")), vocab_size=50, length=12, seed=9)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_model_with_learned_positions_keeps_documents_apart_too(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: Any = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=12)
    GPT2LMHeadModel(settings).save_pretrained(tmp_path / "g")
    model = build_model(ModelConfig(path=str(tmp_path / "g")), vocab_size=50, length=12, seed=0).eval()
    check_isolation(model, logits_function(model))
    found = losses_by_segment(model, [[ONE, TWO]])
    assert found[1] == pytest.approx(reference(model, TWO), abs=1e-5)


def test_logits_that_are_capped_after_the_head_are_taken_whole(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    settings = Gemma2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, final_logit_softcapping=0.01, max_position_embeddings=32, sliding_window=32,
        attn_implementation="sdpa",
    )  # fmt: skip
    model: Any = Gemma2ForCausalLM(settings).eval()
    found = losses_by_segment(model, [[TWO]])
    assert found[0] == pytest.approx(reference(model, TWO), abs=1e-5)


def test_a_family_that_ignores_the_mask_is_refused() -> None:
    class Deaf(torch.nn.Module):
        """Sums the embeddings of everything before: no notion of documents."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)
            self.device = CPU
            self.config = type("Config", (), {"vocab_size": 50})()

    deaf: Any = Deaf()

    def logits_of(inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
        return deaf.head(deaf.embed(inputs["input_ids"]).cumsum(1)).flatten(0, 1)[places]

    with pytest.raises(ConfigError, match="Deaf does not keep packed documents apart"):
        check_isolation(deaf, logits_of)


def refused(path: Path, text: str, **changes: Any) -> None:
    with pytest.raises(ConfigError) as error:
        build_model(ModelConfig(path=str(path)), **({"vocab_size": 50, "length": 12, "seed": 0} | changes))
    assert text in str(error.value)


def test_paths_that_are_no_causal_model_are_refused(model: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    refused(tmp_path, "holds no config.json")
    settings: Any = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=50
    )
    BertForMaskedLM(settings).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "is BertForMaskedLM, no causal LM")

    model.save_pretrained(tmp_path / "m")
    refused(tmp_path / "m", "its vocabulary is 50, the data's 51", vocab_size=51)
    refused(tmp_path / "m", "max_position_embeddings is 12, the sequences have 13", length=13)

    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    refused(tmp_path / "m", "cannot be loaded")

    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "nothing_known"}))
    refused(tmp_path / "odd", "configuration that cannot be read")


def test_missing_weights_are_not_filled_with_noise(model: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "m", "lacks the weights ['model.norm.weight']")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layers": 0}, "layers: got 0, allowed a whole number >= 1"),
        ({"hidden_size": 100, "heads": 8}, "a multiple of twice the 8 heads"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads: got 3, allowed a divisor of the 4 heads"),
        ({"context_length": 1}, "context_length: got 1"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**changes)
    assert text in str(error.value)

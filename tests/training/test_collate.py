"""Packed batches as a model's tensors: labels, positions, and documents that cannot see each other."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.errors import ConfigError
from penstock.training.batch import Batch
from penstock.training.collate import CausalCollator, check_attention


def batch(rows, length, learned=None):
    """Rows of segments of token ids as a batch."""
    zeros = np.zeros(len(rows), np.int64)
    tokens = [[t for segment in row for t in segment] for row in rows]
    lengths = [len(segment) for row in rows for segment in row]
    return Batch(
        numbers=np.arange(len(rows)), domain=zeros, rows=zeros, mixture_version=zeros,
        tokens=np.array([row + [0] * (length - len(row)) for row in tokens], np.uint16),
        segment_counts=np.array([len(row) for row in rows]), segment_lengths=np.array(lengths),
        segment_docs=pa.array(["d"] * len(lengths)), learned=learned,
    )  # fmt: skip


def llama(attention="sdpa", **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64, "attn_implementation": attention,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def test_labels_leave_out_first_tokens_and_padding():
    out = CausalCollator()(batch([[[5, 6, 7], [8]], [[9, 10]]], 5))
    assert out["input_ids"].tolist() == [[5, 6, 7, 8, 0], [9, 10, 0, 0, 0]]
    assert out["labels"].tolist() == [[-100, 6, 7, -100, -100], [-100, 10, -100, -100, -100]]
    assert out["position_ids"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert {out[name].dtype for name in ("input_ids", "labels", "position_ids")} == {torch.int64}
    assert out["use_cache"] is False
    assert "attention_mask" not in out


def test_labels_leave_out_tokens_that_are_not_learned():
    learned = np.array([[True, False, True, True]])
    assert CausalCollator()(batch([[[5, 6, 7, 8]]], 4, learned))["labels"].tolist() == [[-100, -100, 7, 8]]


def test_a_mask_lets_a_token_see_its_own_document_up_to_itself():
    mask = CausalCollator(attention="mask")(batch([[[5, 6], [7]]], 4))["attention_mask"]
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_flat_is_one_row_and_across_counts_positions_through():
    rows = batch([[[5, 6], [7]], [[8, 9, 10]]], 3)
    flat = CausalCollator(attention="flat")(rows)
    assert flat["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert flat["position_ids"].tolist() == [[0, 1, 0, 0, 1, 2]]
    assert CausalCollator(attention="across")(rows)["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_several_batches_become_one_in_order():
    parts = [batch([[[5, 6]]], 3), batch([[[7]], [[8, 9, 10]]], 3, np.ones((2, 3), bool))]
    out = CausalCollator()(parts)
    assert out["input_ids"].tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10]]
    assert out["labels"].tolist() == [[-100, 6, -100], [-100, -100, -100], [-100, 9, 10]]


def test_what_is_no_batch_and_an_unknown_way_are_refused():
    with pytest.raises(ConfigError, match="got dict, allowed Batch"):
        CausalCollator()([{"input_ids": [1]}])
    with pytest.raises(ConfigError, match="attention: got 'full', allowed 'positions', 'mask', 'flat', 'across'"):
        CausalCollator(attention="full")


@pytest.mark.parametrize(("attention", "implementation"), [
    ("positions", "sdpa"), ("positions", "eager"), ("mask", "sdpa"), ("flat", "sdpa"), ("flat", "eager"),
])  # fmt: skip
def test_a_packed_document_has_the_loss_it_has_alone(attention, implementation):
    model = llama(implementation)
    rng = np.random.default_rng(0)
    rows = [[rng.integers(1, 32, n).tolist() for n in sizes] for sizes in ((4, 3, 5), (9,), (2, 6))]
    with torch.no_grad():
        given = CausalCollator(attention=attention)(batch(rows, 12))
        labels = given.pop("labels")
        logits = model(**given).logits.reshape(3, 12, -1)
        for row, segments in enumerate(rows):
            at = 0
            for segment in segments:
                alone = model(input_ids=torch.tensor([segment]), use_cache=False).logits[0]
                torch.testing.assert_close(logits[row, at : at + len(segment)], alone, atol=1e-5, rtol=0)
                at += len(segment)
    assert (labels != -100).sum() == sum(len(s) - 1 for segments in rows for s in segments)


@pytest.mark.parametrize(("attention", "implementation"), [
    ("positions", "sdpa"), ("positions", "eager"), ("mask", "sdpa"), ("flat", "sdpa"), ("flat", "eager"),
    ("across", "sdpa"),
])  # fmt: skip
def test_the_check_passes_where_documents_stay_apart(attention, implementation):
    model = llama(implementation).train()
    check_attention(model, attention)
    assert model.training


def test_the_check_refuses_a_mask_that_the_model_does_not_obey():
    # eager attention adds a mask of booleans to its scores
    with pytest.raises(ConfigError, match=r"'mask': LlamaForCausalLM with eager attention lets documents of a row see"):
        check_attention(llama("eager"), "mask")


def test_the_check_refuses_a_model_that_looks_for_no_borders():
    class Deaf(torch.nn.Module):
        """Mixes all earlier tokens, whatever the positions say."""

        def __init__(self):
            super().__init__()
            self.config, self.table = llama().config, torch.nn.Embedding(32, 32)

        @property
        def device(self):
            return self.table.weight.device

        def forward(self, input_ids, position_ids=None, use_cache=None):
            return type("Out", (), {"logits": self.table(input_ids).cumsum(1)})

    with pytest.raises(ConfigError, match="Deaf with sdpa attention"):
        check_attention(Deaf(), "positions")


@pytest.mark.parametrize("attention", ["positions", "flat"])
def test_documents_would_see_each_other_if_the_model_made_a_cache(attention, monkeypatch):
    """The reason for ``use_cache`` in the collator's answer: without it transformers looks for no borders."""
    call = CausalCollator.__call__
    monkeypatch.setattr(CausalCollator, "__call__", lambda *given: {**call(*given), "use_cache": True})
    with pytest.raises(ConfigError, match="lets documents of a row see each other"):
        check_attention(llama(), attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_check_needs_no_tolerance_in_low_precision(dtype):
    check_attention(llama().to(dtype), "positions")

"""pytest tests/training/test_probes.py"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.training.config import ModelConfig, TrainData
from penstock.training.loader import Batch
from penstock.training.mixing.base import Signal
from penstock.training.model import build_model, logits_function, pack_inputs, token_losses
from penstock.training.probes import GradientProbe, Target, rows_batch
from penstock.training.sequences import SequenceStore


def small_model(dropout: float = 0.0, seed: int = 0) -> Any:
    config = ModelConfig(hidden_size=16, layers=2, heads=2, kv_heads=1, ffn_size=32)
    model = build_model(config, vocab_size=32, length=16, seed=seed)
    model.config.attention_dropout = dropout
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    return model


def loss_of(model: Any) -> Any:
    logits = logits_function(model)

    def mean_loss(batch: Batch) -> torch.Tensor:
        inputs = pack_inputs(
            batch.tokens, batch.segment_ids, batch.positions, batch.learned, device=torch.device("cpu")
        )
        return token_losses(logits, inputs).mean()

    return mean_loss


@pytest.fixture
def stores(tiny_data: TrainData) -> SimpleNamespace:
    return SimpleNamespace(
        train=SequenceStore.open(tiny_data.train), validation=SequenceStore.open(tiny_data.validation)
    )


def plain_gradient(model: Any, loss: Any, batch: Batch) -> torch.Tensor:
    """The gradient by ``backward`` on a model of its own, as one vector."""
    model.zero_grad(set_to_none=True)
    loss(batch).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def test_products_are_those_of_gradients_taken_by_backward(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    target = Target.split(stores.validation, domains=["web"], seed=3)
    seen: list[Batch] = []
    loss = loss_of(model)

    def recording(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return loss(batch)

    probe = GradientProbe(model, recording, stores.train, target=target, sequences=4, seed=1, clip_norm=None)
    found = probe.measure(frozenset({Signal.TARGET_DOT, Signal.TARGET_LOSS}), 0)
    of_target, *of_domains = [plain_gradient(model, loss, batch) for batch in seen]
    expected = [float(of_target @ g) for g in of_domains]
    dots, counts = found[Signal.TARGET_DOT]
    assert dots == pytest.approx(expected, rel=1e-4)
    assert counts.tolist() == [1.0, 1.0]
    assert found[Signal.TARGET_LOSS][0] == pytest.approx([float(loss(seen[0]).detach())])
    assert [set(batch.domain.tolist()) for batch in seen[1:]] == [{0}, {1}]


def test_clipping_scales_both_gradients_to_the_norm(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    target = Target.split(stores.validation, seed=3)
    wanted = frozenset({Signal.TARGET_DOT})
    free, tight = (
        GradientProbe(model, loss_of(model), stores.train, target=target, sequences=4, clip_norm=norm).measure(
            wanted, 0
        )[Signal.TARGET_DOT][0]
        for norm in (None, 1e-3)
    )
    assert (np.abs(tight) <= 1e-6 * (1 + 1e-5)).all()
    assert np.sign(tight).tolist() == np.sign(free).tolist()
    assert np.abs(tight).max() > 1e-8


def test_the_gram_matrix_is_symmetric_and_has_the_squared_norms_on_its_diagonal(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    head = [model.get_output_embeddings().weight]
    seen: list[Batch] = []
    loss = loss_of(model)

    def recording(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return loss(batch)

    probe = GradientProbe(model, recording, stores.train, sequences=4, clip_norm=None, parameters=head)
    gram, counts = probe.measure(frozenset({Signal.GRADIENT_GRAM}), 5)[Signal.GRADIENT_GRAM]
    gradients = []
    for batch in seen:
        model.zero_grad(set_to_none=True)
        loss(batch).backward()
        gradients.append(head[0].grad.flatten().double())
    expected = np.array([[float(a @ b) for b in gradients] for a in gradients])
    np.testing.assert_allclose(gram, expected, rtol=1e-4)
    assert counts.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_basis_draws_batches_from_its_distributions(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    seen: list[Batch] = []
    loss = loss_of(model)

    def recording(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return loss(batch)

    basis = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    target = Target.split(stores.validation)
    probe = GradientProbe(model, recording, stores.train, target=target, sequences=8, basis=basis)
    dots, _ = probe.measure(frozenset({Signal.TARGET_DOT}), 0)[Signal.TARGET_DOT]
    assert dots.shape == (3,)
    assert [set(batch.domain.tolist()) for batch in seen[1:]] == [{1}, {0}, {0, 1}]


@pytest.mark.parametrize("backward", ["autograd", "grad"])
def test_a_probe_in_the_middle_of_accumulation_changes_nothing(stores: SimpleNamespace, backward: Any) -> None:
    def run(probing: bool) -> tuple[list[torch.Tensor], list[float]]:
        torch.manual_seed(7)
        model = small_model(dropout=0.1).train()
        loss = loss_of(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        target = Target.split(stores.validation)
        probe = GradientProbe(model, loss, stores.train, target=target, sequences=4, backward=backward)
        products: list[float] = []
        for step in range(4):
            for micro in range(2):
                rows = np.arange(4) + 8 * step + 4 * micro
                (loss(rows_batch(stores.train, np.ones(4, np.int64), rows)) / 2).backward()
                if probing and micro == 0:
                    products += probe.measure(frozenset({Signal.TARGET_DOT}), step)[Signal.TARGET_DOT][0].tolist()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert all(module.training for module in model.modules())
        return [p.detach().clone() for p in model.parameters()], products

    plain, none = run(probing=False)
    probed, products = run(probing=True)
    assert not none
    assert len(products) == 8
    assert min(map(abs, products)) > 0
    for a, b in zip(plain, probed, strict=True):
        assert torch.equal(a, b)


def test_both_ways_to_a_gradient_agree(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    target = Target.split(stores.validation)
    one, two = (
        GradientProbe(model, loss_of(model), stores.train, target=target, sequences=4, backward=way).measure(
            frozenset({Signal.TARGET_DOT}), 2
        )[Signal.TARGET_DOT][0]
        for way in ("autograd", "grad")
    )
    assert one.tolist() == two.tolist()


def test_the_same_measurement_draws_the_same_rows_and_the_next_one_others(stores: SimpleNamespace) -> None:
    model = small_model().eval()
    rows: list[list[int]] = []
    loss = loss_of(model)

    def recording(batch: Batch) -> torch.Tensor:
        rows.append(batch.rows.tolist())
        return loss(batch)

    probe = GradientProbe(model, recording, stores.train, target=Target.split(stores.validation), sequences=8)
    for number in (0, 0, 1):
        probe.measure(frozenset({Signal.TARGET_DOT}), number)
    assert rows[0:3] == rows[3:6]
    assert rows[1:3] != rows[7:9]


def test_a_target_is_split_into_two_sides_that_share_nothing(stores: SimpleNamespace) -> None:
    target = Target.split(stores.validation, held_out=0.5, seed=1)
    probe = set(zip(*(part.tolist() for part in target.probe), strict=True))
    aside = set(zip(*(part.tolist() for part in target.held_out), strict=True))
    assert not probe & aside
    assert probe | aside == {(0, row) for row in range(5)} | {(1, row) for row in range(7)}
    assert len(aside) == 6
    again = Target.split(stores.validation, held_out=0.5, seed=1)
    assert [part.tolist() for part in again.probe] == [part.tolist() for part in target.probe]


def test_one_sequence_is_probed_with_and_none_is_held_out(
    stores: SimpleNamespace, packed: SimpleNamespace, tmp_path: Any
) -> None:
    file = packed.write(tmp_path / "one.arrow", [[("d", [1, 2, 3])]], length=16)
    target = Target.split(SequenceStore.open({"d": [file]}))
    assert [part.tolist() for part in target.probe] == [[0], [0]]
    assert [part.tolist() for part in target.held_out] == [[], []]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s, m: Target.split(s.validation, domains=["legal"]),
            "no domain 'legal'; the target's data has code, web",
        ),
        (lambda s, m: Target.split(s.validation, domains=[]), "holds no sequence"),
        (lambda s, m: Target.split(s.validation, held_out=1.0), "held_out: got 1.0, allowed 0 to below 1"),
        (lambda s, m: GradientProbe(m, loss_of(m), s.train, sequences=0), "allowed >= 1"),
        (lambda s, m: GradientProbe(m, loss_of(m), s.train, sequences=3, world_size=2), "do not divide by 2 ranks"),
        (lambda s, m: GradientProbe(m, loss_of(m), s.train, clip_norm=0.0), "clip_norm: got 0.0"),
        (lambda s, m: GradientProbe(m, loss_of(m), s.train, basis=np.ones((2, 3))), r"allowed \(N, 2\)"),
        (lambda s, m: GradientProbe(m, loss_of(m), s.train, basis=np.ones((2, 2))), "sum to 1"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(stores: SimpleNamespace, make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(stores, small_model())

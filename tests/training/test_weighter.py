"""pytest tests/training/test_weighter.py: weights of a whole optimiser step on a real small model, in one process."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.training.config import ModelConfig
from penstock.training.losses import chunked_cross_entropy, sums_by_segment
from penstock.training.model import attention_mask, build_model, pack_inputs
from penstock.training.sequences import segment_layout
from penstock.training.weighter import SampleWeighter, scale_gradients
from penstock.training.weighting import SCORES, WeightingConfig, loss_weights, normalise
from penstock.training.weighting_range import LossRange

SMALL = ModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=1, ffn_size=24)
Documents = list[list[int]]


@pytest.fixture
def model() -> Any:
    return build_model(SMALL, vocab_size=30, length=16, seed=1).double()


def documents(sizes: Sequence[int], seed: int = 0) -> Documents:
    draw = np.random.default_rng(seed)
    # ever larger ids are ever rarer, so that losses come apart as the model learns
    return [(29 * draw.random(size) ** (1 + i % 4)).astype(int).tolist() for i, size in enumerate(sizes)]


def forward(model: Any, rows: Sequence[Documents]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token losses, their segments, and the loss sums of packed rows."""
    lengths = np.array([len(document) for row in rows for document in row])
    ids, positions = segment_layout(np.array([len(row) for row in rows]), lengths, 16)
    tokens = np.zeros((len(rows), 16), dtype=np.int64)
    for i, row in enumerate(rows):
        joined = [token for document in row for token in document]
        tokens[i, : len(joined)] = joined
    inputs = pack_inputs(tokens, ids, positions, device=torch.device("cpu"))
    hidden = model.base_model(
        input_ids=inputs.tokens, position_ids=inputs.positions, attention_mask=attention_mask(inputs.segment_ids)
    ).last_hidden_state
    weight = model.get_output_embeddings().weight
    losses = chunked_cross_entropy(hidden.flatten(0, 1)[inputs.places], weight, inputs.targets, chunk=5)
    return losses, inputs.segments, sums_by_segment(losses, inputs.segments, inputs.segment_count)[0]


def counts_of(rows: Sequence[Documents]) -> list[int]:
    return [len(document) - 1 for row in rows for document in row]


def gradient(model: Any) -> torch.Tensor:
    out = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return out


def take_step(
    weighter: SampleWeighter, number: int, model: Any, rows: Sequence[Documents], size: int = 100, **options: Any
) -> tuple[float, torch.Tensor, Any]:
    """Objective, whole gradient and the step of ``rows`` taken ``size`` rows at a time."""
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    step = weighter.begin(number, counts_of(rows), micro_batches=len(parts), **options)
    if step.wants_prepass and len(parts) > 1:
        with torch.no_grad():
            step.prepass(torch.cat([forward(model, part)[2] for part in parts]))
    total = 0.0
    for part in parts:
        loss = step.loss(*forward(model, part))
        loss.backward()
        total += loss.item()
    scale_gradients(model.parameters(), step.finish())
    return total, gradient(model), step


def segment_means(model: Any, rows: Sequence[Documents]) -> torch.Tensor:
    return forward(model, rows)[2] / torch.tensor(counts_of(rows))


def train_a_little(model: Any, rows: Sequence[Documents]) -> None:
    for _ in range(15):
        forward(model, rows)[0].mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        model.zero_grad()


# rows of one to three documents of 2 to 16 tokens
ROWS = [
    [a for a in documents([5, 7, 4], 1)],
    documents([16], 2),
    documents([2, 9], 3),
    documents([3, 3, 10], 4),
    documents([8, 8], 5),
    documents([12, 4], 6),
]


@pytest.fixture
def trained(model: Any) -> Any:
    train_a_little(model, ROWS)
    return model


def config(**changes: Any) -> WeightingConfig:
    return WeightingConfig(**({"warmup_steps": 0} | changes))


def objective_by_hand(model: Any, rows: Sequence[Documents], length: str = "sequence") -> torch.Tensor:
    """With autograd and the whole batch at once, and no code of the weighter."""
    losses, segments, sums = forward(model, rows)
    counts = torch.tensor(counts_of(rows), dtype=torch.float64)
    weights = torch.from_numpy(loss_weights((sums / counts).numpy()))
    means = [losses[segments == s].mean() for s in range(len(counts))]
    if length == "sequence":
        return sum(w * m for w, m in zip(weights, means, strict=True))  # type: ignore[return-value]
    factor = weights[segments]
    return (factor * losses).sum() / factor.sum()


@pytest.mark.parametrize("length", ["sequence", "token"])
@pytest.mark.parametrize("size", [100, 4, 1])
def test_a_prepass_makes_accumulation_equal_the_whole_batch(trained: Any, length: Any, size: int) -> None:
    wanted = objective_by_hand(trained, ROWS, length)
    wanted.backward()
    by_hand = gradient(trained)
    loss, found, _ = take_step(SampleWeighter(config(length=length)), 1, trained, ROWS, size)
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    assert torch.allclose(found, by_hand, rtol=1e-10, atol=1e-14)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Up to the rounding of the model's norms, which run in float32 whatever the weights are."""
    return float((found - wanted).norm() / wanted.norm()) < 1e-6


def frozen(trained: Any, mode: Any, **changes: Any) -> SampleWeighter:
    """A weighter that has seen one plain step of some of the rows."""
    weighter = SampleWeighter(config(accumulation=mode, **changes))
    take_step(weighter, 1, trained, ROWS[1:5])
    return weighter


@pytest.mark.parametrize("length", ["sequence", "token"])
def test_deferred_accumulation_equals_the_whole_batch_with_the_range_of_the_steps_before(
    trained: Any, length: Any
) -> None:
    weighter = frozen(trained, "deferred", length=length)
    state = weighter.state_dict()
    losses, segments, sums = forward(trained, ROWS)
    counts = torch.tensor(counts_of(ROWS), dtype=torch.float64)
    weights = torch.from_numpy(loss_weights((sums / counts).numpy(), bounds=LossRange(*state["range"])))
    factor = (weights / counts if length == "sequence" else weights / (weights * counts).sum())[segments]
    (factor * losses).sum().backward()
    wanted = gradient(trained)
    for size in (100, 2, 1):
        weighter.load_state_dict(state)
        _, found, step = take_step(weighter, 2, trained, ROWS, size)
        assert not step.plain
        assert close(found, wanted)


def test_running_accumulation_is_near_the_whole_batch_and_a_softmax_per_micro_batch_is_not(trained: Any) -> None:
    wanted = take_step(frozen(trained, "deferred"), 2, trained, ROWS)[1]
    near = take_step(frozen(trained, "running"), 2, trained, ROWS, 1)[1]
    off = (near - wanted).norm() / wanted.norm()
    assert 1e-6 < off < 0.15
    # running differs in size alone: the mean of u is not that of this step
    assert torch.nn.functional.cosine_similarity(near, wanted, dim=0) == pytest.approx(1.0, abs=1e-12)

    whole = take_step(SampleWeighter(config()), 1, trained, ROWS)[1]
    published = SampleWeighter(config(accumulation="per_micro"))
    apart = take_step(published, 1, trained, ROWS, 1)[1]
    assert torch.nn.functional.cosine_similarity(apart, whole, dim=0) < 0.999
    assert (apart - whole).norm() / whole.norm() > 0.05
    # it is the mean of what each micro-batch is alone
    by_hand = [objective_by_hand(trained, rows).item() for rows in (ROWS[:3], ROWS[3:])]
    assert take_step(published, 2, trained, ROWS, 3)[0] == pytest.approx(np.mean(by_hand), rel=1e-12)
    # with one micro-batch there is nothing to differ
    alone = take_step(SampleWeighter(config(accumulation="per_micro")), 1, trained, ROWS)[1]
    assert torch.equal(alone, whole)


def test_packed_documents_are_weighted_as_if_each_had_a_row_of_its_own(trained: Any) -> None:
    unpacked = [[document] for row in ROWS for document in row]
    for length in ("sequence", "token"):
        packed = take_step(SampleWeighter(config(length=length)), 1, trained, ROWS)
        alone = take_step(SampleWeighter(config(length=length)), 1, trained, unpacked)
        assert packed[0] == pytest.approx(alone[0], rel=1e-12)
        assert torch.allclose(packed[1], alone[1], rtol=1e-9, atol=1e-13)


def test_length_says_whether_a_long_segment_counts_more(trained: Any) -> None:
    counts = counts_of(ROWS)
    sums = forward(trained, ROWS)[2]
    weights = loss_weights((sums.detach() / torch.tensor(counts)).numpy())
    by_sequence = SampleWeighter(config()).begin(1, counts).coefficients(sums)
    assert (by_sequence * torch.tensor(counts)).tolist() == pytest.approx(weights.tolist())
    by_token = SampleWeighter(config(length="token")).begin(1, counts).coefficients(sums)
    assert (by_token / by_token[0]).tolist() == pytest.approx((weights / weights[0]).tolist())
    assert (by_token * torch.tensor(counts)).sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("mode", "size"), [("prepass", 2), ("deferred", 2), ("running", 100), ("per_micro", 3)])
def test_factors_of_a_policy_come_on_top_of_the_weights(trained: Any, mode: Any, size: int) -> None:
    base = np.linspace(0.0, 2.0, len(counts_of(ROWS)))
    plain, scaled = frozen(trained, mode), frozen(trained, mode)
    counts, sums = counts_of(ROWS), forward(trained, ROWS)[2]
    one, two = plain.begin(2, counts).coefficients(sums), scaled.begin(2, counts, base=base).coefficients(sums)
    assert two.tolist() == pytest.approx((one * torch.from_numpy(base)).tolist())
    doubled = take_step(frozen(trained, mode), 2, trained, ROWS, size, base=np.full(len(base), 2.0))[1]
    single = take_step(frozen(trained, mode), 2, trained, ROWS, size)[1]
    assert torch.allclose(doubled, 2 * single, rtol=1e-10)


def test_a_warm_up_step_takes_factors_too(trained: Any) -> None:
    base = np.linspace(0.0, 2.0, len(counts_of(ROWS)))
    loss, _, step = take_step(SampleWeighter(config(warmup_steps=5)), 1, trained, ROWS, 2, base=base)
    assert step.plain
    sums = forward(trained, ROWS)[2]
    assert loss == pytest.approx((sums * torch.from_numpy(base)).sum().item() / sum(counts_of(ROWS)))


# --- warm-up and resume ---


def train(model: Any, steps: int, weighter: SampleWeighter | None, first: int = 1) -> list[float]:
    """Losses of the token mean before each step, of plain SGD with or without a weighter."""
    seen = []
    for number in range(first, first + steps):
        rows = [documents([5, 6, 5], 100 * number + i) for i in range(4)]
        total = sum(counts_of(rows))
        step = weighter.begin(number, counts_of(rows)) if weighter else None
        of_step = 0.0
        if step is not None and step.wants_prepass:
            with torch.no_grad():
                step.prepass(forward(model, rows)[2])
        for part in (rows[:2], rows[2:]):
            losses, segments, sums = forward(model, part)
            objective = losses.sum() / total if step is None else step.loss(losses, segments, sums)
            objective.backward()
            of_step += float(sums.sum())
        if step is not None:
            scale_gradients(model.parameters(), step.finish())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.3 * p.grad
        model.zero_grad()
        seen.append(of_step / total)
    return seen


def fresh() -> Any:
    return build_model(SMALL, vocab_size=30, length=16, seed=1)


@pytest.mark.parametrize("mode", ["prepass", "deferred", "running"])
def test_the_warm_up_is_the_plain_trainer_to_the_last_bit_and_what_follows_is_not(mode: Any) -> None:
    plain = train(fresh(), 8, None)
    found = train(fresh(), 8, SampleWeighter(config(warmup_steps=5, accumulation=mode)))
    # the loss is taken before the update, so the first weighted step shows in the step after it
    assert found[:6] == plain[:6]
    assert all(a != b for a, b in zip(found[6:], plain[6:], strict=True))


def test_uniform_is_the_plain_trainer_all_the_way() -> None:
    assert train(fresh(), 4, SampleWeighter(config(strategy="uniform"))) == train(fresh(), 4, None)


@pytest.mark.parametrize("mode", ["prepass", "deferred", "running"])
@pytest.mark.parametrize("kind", ["trimmed", "running"])
@pytest.mark.parametrize("cut", [2, 5])
def test_a_run_that_goes_on_from_its_state_repeats_the_one_left_alone(mode: Any, kind: Any, cut: int) -> None:
    """The cut at 2 is inside the warm-up, that at 5 after it."""
    settings = config(warmup_steps=3, accumulation=mode, range=kind)
    whole = train(fresh(), 8, SampleWeighter(settings))
    model, before = fresh(), SampleWeighter(settings)
    first = train(model, cut, before)
    after = SampleWeighter(settings)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.step == cut
    assert first + train(model, 8 - cut, after, cut + 1) == whole


def test_frozen_modes_begin_with_a_plain_step_as_no_range_is_known(trained: Any) -> None:
    weighter = SampleWeighter(config(accumulation="deferred"))
    assert not weighter.active(1)
    assert take_step(weighter, 1, trained, ROWS)[2].plain
    assert weighter.active(2)
    assert SampleWeighter(config()).active(1)


def test_the_running_range_is_an_average_of_the_ranges_of_the_steps() -> None:
    weighter = SampleWeighter(config(range="running", trim=0.0, running_decay=0.75))
    for number, losses in enumerate(([1.0, 2.0, 3.0], [5.0, 6.0, 11.0]), start=1):
        step = weighter.begin(number, [1, 1, 1])
        step.coefficients(torch.tensor(losses, dtype=torch.float64))
        step.finish()
    assert weighter.state_dict()["range"] == [0.75 * 1 + 0.25 * 5, 0.75 * 3 + 0.25 * 11]
    # the second step was weighted by the range of the first, so all of it was high
    assert step.report.effective_share == pytest.approx(1.0)


# --- bad segments and what is reported ---


def one_step(weighter: SampleWeighter, losses: Sequence[float], counts: Sequence[int], number: int = 1) -> Any:
    step = weighter.begin(number, counts)
    sums = torch.tensor(losses, dtype=torch.float64) * torch.tensor(counts)
    found = step.coefficients(sums)
    step.finish()
    return found, step.report


@pytest.mark.parametrize("mode", ["prepass", "per_micro", "deferred", "running"])
def test_empty_broken_and_short_segments_are_counted_and_never_make_the_range(mode: Any) -> None:
    weighter = SampleWeighter(config(accumulation=mode, range="minmax", min_tokens=3))
    losses, counts = [1.0, math.nan, 2.0, 0.0, 3.0, 90.0, math.inf, 5.0], [4, 4, 4, 0, 4, 2, 4, 4]
    if weighter.config.frozen:
        one_step(weighter, [1.0, 2.0, 3.0, 5.0], [4] * 4)
        assert weighter.state_dict()["range"] == [1.0, 5.0]
    found, report = one_step(weighter, losses, counts, 2)
    assert found[[1, 3, 6]].tolist() == [0.0, 0.0, 0.0]
    assert (report.segments, report.empty, report.not_finite, report.short) == (5, 1, 2, 1)
    assert (report.low, report.high) == (1.0, 5.0)
    # scores 0, 1/2, 1, 1 and their mean for the short one
    raised = np.exp(np.array([0.0, 0.5, 1.0, 0.625, 1.0]) / 0.4)
    weights = found[[0, 2, 4, 5, 7]].numpy() * np.array([4, 4, 4, 2, 4])
    assert weights / weights.sum() == pytest.approx(raised / raised.sum())
    assert report.max_weight == pytest.approx(5 * raised.max() / raised.sum())
    assert report.effective_share == pytest.approx(raised.sum() ** 2 / (raised**2).sum() / 5)


@pytest.mark.parametrize("mode", ["prepass", "deferred", "running"])
def test_a_step_of_nothing_but_broken_segments_has_no_weights_and_leaves_the_state(mode: Any) -> None:
    weighter = SampleWeighter(config(accumulation=mode))
    one_step(weighter, [1.0, 2.0, 4.0], [2, 2, 2])
    before = weighter.state_dict()
    found, report = one_step(weighter, [math.nan, math.inf], [2, 2], 2)
    assert found.tolist() == [0.0, 0.0]
    assert (report.segments, report.not_finite, report.effective_share) == (0, 2, 0.0)
    assert weighter.state_dict() | {"step": 1} == before


def test_a_nan_loss_leaves_the_gradient_of_the_head_finite() -> None:
    head = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(6, 3, dtype=torch.float64)
    hidden[2] = math.nan
    segments = torch.arange(6) // 2
    losses = chunked_cross_entropy(hidden, head, torch.tensor([1, 2, 3, 4, 5, 6]), chunk=2)
    step = SampleWeighter(config()).begin(1, [2, 2, 2])
    step.loss(losses, segments, sums_by_segment(losses, segments, 3)[0]).backward()
    step.finish()
    assert head.grad is not None
    assert head.grad.isfinite().all()
    assert head.grad.abs().sum() > 0
    assert step.report is not None
    assert step.report.not_finite == 1


def test_the_monitor_counts_weights_above_two_over_m_and_the_cap_removes_them() -> None:
    losses = np.random.default_rng(0).normal(3.0, 0.5, 48).tolist()
    sharp = {"strategy": "kl_dro", "temperature": 0.4}
    report = one_step(SampleWeighter(config(**sharp)), losses, [5] * 48)[1]
    assert report.max_weight > 4
    relative = 48 * loss_weights(np.array(losses), strategy="kl_dro", temperature=0.4)
    assert report.above_two == np.mean(relative > 2) > 0.02
    assert report.max_weight == pytest.approx(relative.max())
    capped = one_step(SampleWeighter(config(cap=2.0, **sharp)), losses, [5] * 48)[1]
    assert capped.max_weight == pytest.approx(2.0)
    assert capped.effective_share > report.effective_share
    assert json.loads(json.dumps(report.to_json()))["temperature"] == 0.4


def test_a_user_is_warned_once_of_garbage_that_the_trim_does_not_cover_and_never_without_it() -> None:
    draw = np.random.default_rng(0)
    weighter, clean = SampleWeighter(config()), SampleWeighter(config())
    warnings, gained = [], []
    for number in range(1, 60):
        losses = draw.normal(5.3, 0.4, 40)
        one_step(clean, losses.tolist(), [5] * 40, number)
        losses[:4] = draw.normal(9.5, 0.2, 4)
        report = one_step(weighter, losses.tolist(), [5] * 40, number)[1]
        gained.append(report.tail_weight / report.tail_share)
        warnings.append(weighter.warning())
        assert clean.warning() is None
    told = [w for w in warnings if w]
    assert len(told) == 1
    assert warnings.index(told[0]) < 10
    assert "trim = 0.02" in told[0]
    assert np.mean(gained) > 2
    again = SampleWeighter(config())
    again.load_state_dict(weighter.state_dict())
    assert again.warning() is None


# --- the interface ---


def test_weights_of_a_global_batch_are_detached_and_keep_their_kind() -> None:
    weighter = config(warmup_steps=2).build()
    losses = torch.tensor([1.0, 2.0, 3.0, 5.0, math.nan], requires_grad=True)
    assert weighter.weights(losses, 1).tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]
    found = weighter.weights(losses, 3)
    assert isinstance(found, torch.Tensor)
    assert not found.requires_grad
    assert found.dtype == torch.float32
    array = weighter.weights(losses.detach().numpy(), 3)
    assert isinstance(array, np.ndarray)
    assert array.tolist() == loss_weights(losses.detach().numpy()).tolist()
    assert found.tolist() == pytest.approx(array.tolist())
    assert weighter.world_size == 1


@pytest.mark.parametrize("mode", ["prepass", "deferred", "running", "per_micro"])
def test_no_weight_depends_on_the_parameters(trained: Any, mode: Any) -> None:
    step = frozen(trained, mode).begin(2, counts_of(ROWS))
    losses, segments, _ = forward(trained, ROWS)
    with_graph = torch.zeros(len(counts_of(ROWS)), dtype=torch.float64).index_add(0, segments, losses)
    assert with_graph.requires_grad
    assert not step.coefficients(with_graph).requires_grad


def test_scores_on_the_device_are_those_of_the_host() -> None:
    """The frozen modes score tensors and the report arrays."""
    bounds = LossRange(1.0, 5.0)
    losses = np.array([0.5, 1.7, 3.0, 4.1, 9.0])
    for score in SCORES.values():
        on_device = score(normalise(torch.from_numpy(losses), bounds)).numpy()
        assert on_device.tolist() == score(normalise(losses, bounds)).tolist()


def test_what_a_loop_forgets_is_said() -> None:
    sums = torch.ones(2, dtype=torch.float64)
    step = SampleWeighter(config()).begin(1, [1, 1, 1])
    with pytest.raises(ConfigError, match="got losses of 2 of 3 segments, allowed all at once; call prepass"):
        step.coefficients(sums)
    step = SampleWeighter(config(accumulation="per_micro")).begin(1, [1, 1, 1], micro_batches=2)
    step.coefficients(sums)
    with pytest.raises(ConfigError, match="got losses of 2 segments, allowed the 3 whose counts began"):
        step.finish()
    with pytest.raises(ConfigError, match="got losses of 4 segments, allowed the 3 whose counts began"):
        step.coefficients(sums)
    step.coefficients(sums[:1])
    assert step.finish() == 1.0
    step = SampleWeighter(config(accumulation="per_micro")).begin(1, [1, 1], micro_batches=3)
    step.coefficients(sums)
    with pytest.raises(ConfigError, match="got 1 micro-batches, allowed the 3 that begin was told of"):
        step.finish()
    for base in ([1.0], [1.0, -1.0], [1.0, math.nan]):
        with pytest.raises(ConfigError, match="allowed a finite factor >= 0 for each of the 2 segments"):
            SampleWeighter(config()).begin(1, [1, 1], base=base)


def test_gradients_are_scaled_where_they_are_and_untouched_by_one() -> None:
    one, two = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    one.grad = torch.tensor([1.0, 2.0])
    scale_gradients([one, two], 0.5)
    assert one.grad.tolist() == [0.5, 1.0]
    assert two.grad is None

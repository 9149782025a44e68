"""One optimiser step against plain autograd: weights, multipliers, accumulation, dropout, checkpointing, chunks."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import ConfigError
from penstock.training import update as module
from penstock.training.config import ModelConfig, TrainConfig, TrainData
from penstock.training.distributed import Ranks
from penstock.training.loader import Batch, MixtureLoader
from penstock.training.loop import train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.model import build_model, logits_function, pack_inputs, segment_sums, token_losses
from penstock.training.parallel import Spread
from penstock.training.sequences import SequenceStore
from penstock.training.update import Outcome, Update, segment_token_counts
from penstock.training.weighter import WeightedStep
from penstock.training.weighting import WeightingConfig, loss_weights

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
Gradients = dict[str, torch.Tensor]


@pytest.fixture
def loader(tiny_data: TrainData) -> MixtureLoader:
    store = SequenceStore.open(tiny_data.train)
    return MixtureLoader(store, "uniform", seed=0, fingerprint="f", batch_size=6, block=12)


@pytest.fixture
def one_step(
    tiny_config: Make, loader: MixtureLoader, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Gradients, Outcome, Any]]:
    """Gradients of step ``step`` before clipping, its outcome, and the model as it was."""
    seen: list[Gradients] = []
    real = Update._finish

    def finish(self: Any, *given: Any) -> Outcome:
        seen.append({name: p.grad.clone() for name, p in self.spread.model.named_parameters()})
        return real(self, *given)

    monkeypatch.setattr(Update, "_finish", finish)

    def run(step: int = 1, *, multipliers: Any = None, **changes: Any) -> tuple[Gradients, Outcome, Any]:
        config = tiny_config(**({"mixture": "uniform", "micro_batch_size": 2} | changes))
        model = build_model(config.model, vocab_size=32, length=16, seed=5)
        before = build_model(config.model, vocab_size=32, length=16, seed=5)
        spread = Spread(
            model, ranks=Ranks(), device=CPU, way="none", cross_document_attention=False, loss_chunk=config.loss_chunk,
            compile_layers=config.compile, activation_checkpointing=config.activation_checkpointing,
        )  # fmt: skip
        precise = config.precision == "bfloat16"
        update = Update(spread, config, domains=loader.domains, vocab_size=32, bfloat16=precise)
        torch.manual_seed(11)
        outcome = update(step, loader.batch(0), 0.01, multipliers=multipliers)
        return seen.pop(), outcome, before

    return run


def by_hand(model: Any, batch: Batch, objective: Callable[..., torch.Tensor]) -> Gradients:
    """Gradients of an objective of token losses, their segments and counts, in one piece."""
    inputs = pack_inputs(batch.tokens, batch.segment_ids, batch.positions, batch.learned, device=CPU)
    losses = token_losses(logits_function(model), inputs)
    sums, counts = segment_sums(losses, inputs)
    objective(losses, inputs.segments, sums.numpy(), counts.numpy()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_close(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=2e-6, rtol=1e-4), name


def test_the_plain_objective_is_the_mean_over_tokens(one_step: Any, loader: MixtureLoader) -> None:
    found, outcome, model = one_step()
    assert_close(found, by_hand(model, loader.batch(0), lambda losses, *_: losses.mean()))
    assert outcome.facts == {}
    assert outcome.tokens == int(segment_token_counts(loader.batch(0)).sum())
    assert outcome.tokens_read == int(loader.batch(0).segment_lengths.sum())


@pytest.mark.parametrize("micro", [2, 6])
def test_sample_weights_are_those_of_the_whole_batch(one_step: Any, loader: MixtureLoader, micro: int) -> None:
    weighting = WeightingConfig(warmup_steps=0, temperature=0.05)
    found, outcome, model = one_step(weighting=weighting, micro_batch_size=micro)

    def objective(losses: Any, segments: Any, sums: Any, counts: Any) -> torch.Tensor:
        live = counts > 0
        weights = np.zeros(len(counts))
        weights[live] = loss_weights(sums[live] / counts[live], temperature=0.05)
        factors = torch.from_numpy(np.divide(weights, counts, out=np.zeros(len(counts)), where=live)).float()
        return (factors[segments] * losses).sum()

    assert_close(found, by_hand(model, loader.batch(0), objective))
    plain, before, _ = one_step()
    assert not torch.allclose(found["model.norm.weight"], plain["model.norm.weight"], atol=1e-3)
    # what is recorded stays unweighted
    assert outcome.loss == pytest.approx(before.loss, rel=1e-6)
    assert outcome.facts["max_weight"] > 1.05
    assert 0 < outcome.facts["effective_share"] < 1


def test_weights_begin_after_the_warm_up_and_before_it_nothing_differs(one_step: Any) -> None:
    weighting = WeightingConfig(warmup_steps=3, temperature=0.05)
    plain, _, _ = one_step()
    warm, outcome, _ = one_step(3, weighting=weighting)
    assert all(torch.equal(warm[name], plain[name]) for name in plain)
    assert outcome.facts == {}
    weighted, _, _ = one_step(4, weighting=weighting)
    assert not torch.equal(weighted["model.norm.weight"], plain["model.norm.weight"])


def test_multipliers_move_weight_between_domains_and_not_the_step_size(one_step: Any, loader: MixtureLoader) -> None:
    """Ten times the same multipliers is the same gradient: they are divided by their mean over the step's tokens."""
    found, _, model = one_step(multipliers=np.array([0.5, 2.0]))
    batch = loader.batch(0)
    domain = np.repeat(batch.domain, batch.segment_counts)

    def objective(losses: Any, segments: Any, sums: Any, counts: Any) -> torch.Tensor:
        factors = torch.tensor([0.5, 2.0])[torch.from_numpy(domain)][segments]
        return (factors * losses).sum() / factors.sum()

    assert_close(found, by_hand(model, batch, objective))
    again, _, _ = one_step(multipliers=np.array([5.0, 20.0]))
    assert_close(again, found)
    equal, _, _ = one_step(multipliers=np.array([3.0, 3.0]))
    assert_close(equal, one_step()[0])


def test_multipliers_and_weights_multiply(one_step: Any, loader: MixtureLoader) -> None:
    weighting = WeightingConfig(warmup_steps=0, temperature=0.05)
    found, _, model = one_step(multipliers=np.array([0.5, 2.0]), weighting=weighting)
    batch = loader.batch(0)
    domain = np.repeat(batch.domain, batch.segment_counts)

    def objective(losses: Any, segments: Any, sums: Any, counts: Any) -> torch.Tensor:
        live, m = counts > 0, np.array([0.5, 2.0])[domain]
        m = m * counts.sum() / (m * counts).sum()
        weights = np.zeros(len(counts))
        weights[live] = loss_weights(sums[live] / counts[live], temperature=0.05)
        factors = torch.from_numpy(m * np.divide(weights, counts, out=np.zeros(len(counts)), where=live)).float()
        return (factors[segments] * losses).sum()

    assert_close(found, by_hand(model, batch, objective))


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: Any = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=16, resid_pdrop=0.2)
    path = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(settings).save_pretrained(path)
    return ModelConfig(path=str(path))


def test_the_pass_before_sees_the_dropout_of_the_pass_that_trains(
    one_step: Any, with_dropout: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: list[Any] = []
    real = WeightedStep.prepass

    def prepass(self: Any, sums: Any) -> None:
        ahead.append(sums.numpy().copy())
        real(self, sums)

    monkeypatch.setattr(WeightedStep, "prepass", prepass)
    _, outcome, _ = one_step(weighting=WeightingConfig(warmup_steps=0), model=with_dropout)
    _, other, _ = one_step(model=with_dropout)
    assert len(ahead) == 1
    assert ahead[0].tolist() == outcome.sums.tolist()
    # and takes no random number away
    assert outcome.sums.tolist() == other.sums.tolist()


def test_activation_checkpointing_gives_the_same_gradients_with_dropout(
    one_step: Any, with_dropout: ModelConfig
) -> None:
    plain, _, _ = one_step(model=with_dropout)
    found, _, _ = one_step(model=with_dropout, activation_checkpointing=True)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_activation_checkpointing_computes_layers_again(one_step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    calls = []
    real = LlamaMLP.forward

    def forward(self: Any, x: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return real(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    counts = []
    for on in (False, True):
        calls.clear()
        one_step(activation_checkpointing=on)
        counts.append(len(calls))
    assert counts[1] - counts[0] == 3 * 2  # three micro-batches of two layers


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_logits_in_chunks_give_the_same_gradients(one_step: Any, chunk: int) -> None:
    plain, one, _ = one_step()
    found, two, _ = one_step(loss_chunk=chunk)
    assert_close(found, plain)
    assert two.sums == pytest.approx(one.sums, rel=1e-5)


def test_a_model_whose_logits_are_more_than_a_head_cannot_be_chunked(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    settings = Gemma2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, final_logit_softcapping=0.01, max_position_embeddings=32, attn_implementation="sdpa",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="loss_chunk: got 8, but Gemma2ForCausalLM does more to its logits"):
        Spread(
            Gemma2ForCausalLM(settings), ranks=Ranks(), device=CPU, way="none", cross_document_attention=False,
            loss_chunk=8, compile_layers=False, activation_checkpointing=False,
        )  # fmt: skip


def test_bfloat16_is_near_float32_and_not_it(one_step: Any) -> None:
    plain, one, _ = one_step()
    found, two, _ = one_step(precision="bfloat16")
    assert two.loss != one.loss
    assert two.loss == pytest.approx(one.loss, rel=5e-3)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    gradients = [torch.cat([g.flatten() for g in one_of.values()]) for one_of in (found, plain)]
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.slow
def test_compiled_layers_train_alike(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    data = dataclasses.replace(tiny_data, validation={})
    model = ModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=1, ffn_size=32)
    given: dict[str, Any] = {"steps": 3, "model": model, "micro_batch_size": None}
    plain = train(tiny_config(**given), data, tmp_path / "plain", progress=False)
    counters.clear()
    compiled = train(tiny_config(**given, compile=True), data, tmp_path / "compiled", progress=False)
    assert counters["stats"]["unique_graphs"] >= 1
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-5)
    assert compiled.losses[-1] < compiled.losses[0]


def test_tokens_with_a_loss_are_counted_from_the_layout(
    tiny_data: TrainData, tmp_path: Path, packed: SimpleNamespace
) -> None:
    rows = [[("a", [3, 4, 5, 6, 7]), ("b", [8, 9])], [("c", [4]), ("d", [5, 6, 7])]]
    file = packed.write(tmp_path / "m.arrow", rows, length=8, masks=[[0, 2, 4, 7], None])
    store = SequenceStore.open({"m": [file]})
    loader = MixtureLoader(store, "uniform", seed=0, fingerprint="f", batch_size=2, block=2)
    batch = loader.batch(0)
    counts = dict(zip(batch.segment_docs.to_pylist(), segment_token_counts(batch).tolist(), strict=True))
    assert counts == {"a": 2.0, "b": 1.0, "c": 0.0, "d": 2.0}


def noisy(tiny_data: TrainData, tmp_path: Path, packed: SimpleNamespace) -> TrainData:
    """Rows that one model learns fast, and a third of rows that are random tokens."""
    rng = np.random.default_rng(0)
    rows = [[(f"r{i}", [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9])] for i in range(40)]
    rows += [[(f"g{i}", rng.integers(2, 32, 16).tolist())] for i in range(10)]
    file = packed.write(tmp_path / "noisy.arrow", rows, length=16, domain="m")
    return dataclasses.replace(tiny_data, train={"m": [str(file)]}, validation={})


def test_a_tail_that_the_trim_does_not_cover_is_warned_of_once(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, packed: SimpleNamespace
) -> None:
    config = tiny_config(
        steps=40, batch_size=25, micro_batch_size=None, mixture="proportional", learning_rate=0.02, eval_every=40,
        checkpoint_every=40, weighting=WeightingConfig(warmup_steps=10), min_learning_rate=0.0, mixture_block=50,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(config, noisy(tiny_data, tmp_path, packed), tmp_path / "o", progress=False)
    said = [str(one.message) for one in caught if "trim" in str(one.message)]
    assert len(said) == 1
    records = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    assert [record["warning"] for record in records if "warning" in record] == said
    assert all("weighting" not in record for record in records[:10])
    last = records[-1]["weighting"]
    assert {"temperature", "max_weight", "effective_share", "above_two"} <= set(last)
    assert last["temperature"] == 0.4
    assert last["tail_uncovered"] is True


def test_doremi_compares_with_its_reference_token_by_token(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # hardly trained, so that it is better at some tokens and worse at others
    reference = train(tiny_config(steps=1, warmup_steps=1, seed=3), tiny_data, tmp_path / "reference", progress=False)
    outcomes: list[tuple[Batch, Outcome]] = []
    real = Update.__call__

    def call(self: Any, step: int, batch: Batch, *given: Any, **options: Any) -> Outcome:
        outcomes.append((batch, real(self, step, batch, *given, **options)))
        return outcomes[-1][1]

    monkeypatch.setattr(module.Update, "__call__", call)
    config = tiny_config(
        mixture="proportional", policy=PolicyConfig(name="doremi"), reference_model=str(reference.model), steps=5
    )
    result = train(config, tiny_data, tmp_path / "o", progress=False)
    batch, first = outcomes[0]
    assert first.excess is not None
    start = build_model(config.model, vocab_size=32, length=16, seed=config.seed, pad_id=0)
    compared = build_model(ModelConfig(path=str(reference.model)), vocab_size=32, length=16, seed=0)
    inputs = pack_inputs(batch.tokens, batch.segment_ids, batch.positions, batch.learned, device=CPU)
    with torch.no_grad():
        beyond = [token_losses(logits_function(model), inputs) for model in (start, compared)]
        sums, _ = segment_sums((beyond[0] - beyond[1]).clip(min=0.0), inputs)
    assert first.excess == pytest.approx(sums.numpy(), abs=1e-4)
    # the clip is per token: some tokens were better already, so the mean difference is less
    assert first.excess.sum() > float((beyond[0] - beyond[1]).sum()) + 0.01
    rows = [row for path in sorted(result.policy_log.iterdir()) for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 6
    said = json.loads(rows[1]["signals"])
    assert said["policy"]["excess"] == pytest.approx(
        [
            first.excess[np.repeat(batch.domain, batch.segment_counts) == k].sum() / first.domain_counts[k]
            for k in (0, 1)
        ],
        rel=1e-6,
    )


def test_a_reference_model_goes_with_the_policy_that_needs_it(tiny_config: Make) -> None:
    with pytest.raises(ConfigError, match="reference_model: got None, allowed the folder of a model"):
        tiny_config(mixture="proportional", policy=PolicyConfig(name="doremi"))
    with pytest.raises(ConfigError, match="reference_model: got '/m', allowed none: no policy asks for it"):
        tiny_config(reference_model="/m")
    with pytest.raises(ConfigError, match="allowed no mixture and no temperature beside a policy"):
        tiny_config(policy=PolicyConfig(name="odm"))
    with pytest.raises(ConfigError, match=r"prefetch: got 4, allowed at most policy\.lag = 3"):
        tiny_config(mixture="proportional", policy=PolicyConfig(name="odm", lag=3), prefetch=4)


def test_a_target_needs_validation_sequences(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    policy = PolicyConfig(name="dga", target=("code",))
    config = tiny_config(mixture="proportional", policy=policy)
    with pytest.raises(ConfigError, match="target"):
        train(config, dataclasses.replace(tiny_data, validation={}), tmp_path / "a", progress=False)
    other = tiny_config(mixture="proportional", policy=dataclasses.replace(policy, target=("nowhere",)))
    with pytest.raises(ConfigError, match="no domain 'nowhere'"):
        train(other, tiny_data, tmp_path / "b", progress=False)


def test_a_byte_model_trains(tiny_config: Make, tmp_path: Path, packed: SimpleNamespace) -> None:
    """256 ids, one a byte, no tokenizer: from ln 256 to what a sentence that repeats allows."""
    text = "Water turns the wheel; the wheel turns the stone. " * 40
    data = text.encode()
    assert set(data) - set(range(256)) == set()
    rows = [[(f"b{i}", list(data[i * 32 : i * 32 + 32]))] for i in range(len(data) // 32)]
    file = packed.write(tmp_path / "bytes.arrow", rows, length=32, domain="text")
    given = TrainData(
        train={"text": [str(file)]}, validation={"text": [str(file)]}, tokenizer_file=None, fingerprint="b",
        vocab_size=256,
    )  # fmt: skip
    config = tiny_config(
        steps=60, batch_size=8, micro_batch_size=None, mixture="proportional", learning_rate=0.02, eval_every=60,
        checkpoint_every=60, min_learning_rate=0.0,
    )  # fmt: skip
    result = train(config, given, tmp_path / "o", progress=False)
    assert result.losses[0] == pytest.approx(math.log(256), abs=0.2)
    assert result.validation["text"] < 1.5
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(result.model).config.vocab_size == 256

"""One update's gradient: against autograd on the formula written out, however it is cut into micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.objective import Objective, judge
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Rewards, Rollouts

V, GROUPS, PHRASINGS, ANSWERS = 20, 3, 2, 3
N = GROUPS * PHRASINGS * ANSWERS


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """A policy and a reference, in float64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: Any = LlamaConfig(
        vocab_size=V, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, attn_implementation="sdpa",
    )  # fmt: skip
    made: list[Any] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for _ in range(2):
            make: Any = LlamaForCausalLM
            made.append(make(settings).double().eval())
    for model in made:
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(8.0)
    return made[0], made[1]


@pytest.fixture(scope="module")
def questions() -> Questions:
    rng = np.random.default_rng(1)
    rows = [
        {"problem_id": f"{g}.{i}", "group_id": f"{g}", "sub_index": i, "prompt": f"{g} {i}", "answer": "1"}
        for g in range(GROUPS)
        for i in range(PHRASINGS)
    ]
    prompts = tuple(rng.integers(0, V, rng.integers(2, 6)).astype(np.int32) for _ in rows)
    return Questions(ProblemTable.of(rows), prompts, np.arange(len(rows), dtype=np.uint64))


def step(questions: Questions) -> tuple[Rollouts, Rewards]:
    """Answers of 1 to 4 tokens; the second group is flat, one answer of the first is not known."""
    rng = np.random.default_rng(2)
    problem = np.repeat(np.arange(GROUPS * PHRASINGS), ANSWERS)
    responses = tuple(rng.integers(0, V, rng.integers(1, 5)).astype(np.int32) for _ in range(N))
    rollouts = Rollouts(
        problem=problem,
        group=questions.table.group_of[problem],
        prompts=tuple(questions.prompts[place] for place in problem),
        responses=responses,
        # the policy moved since: some ratios are clipped
        logprobs=tuple((rng.normal(-3.0, 0.5, len(one))).astype(np.float32) for one in responses),
        ended=np.ones(N, dtype=np.bool_),
        texts=("",) * N,
        version=0,
    )
    values = np.array([1, 0, 1, 0, 0, 1, *[1] * 6, 0, 1, 0, 1, 1, 0], dtype=np.float64)
    known = np.arange(N) != 1
    return rollouts, Rewards(values=values, known=known, outcomes=("",) * N)


def config(**changes: Any) -> GroupRLConfig:
    given: dict[str, Any] = {"objective": "ta-grpo", "max_new_tokens": 6, "temperature": 0.8, "groups_per_step": GROUPS}
    return GroupRLConfig(**(given | changes))


def gradient(model: Any) -> NDArray[Any]:
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).numpy().copy()
    model.zero_grad(set_to_none=True)
    return found


def logprobs(model: Any, prompt: NDArray[Any], response: NDArray[Any], temperature: float) -> torch.Tensor:
    text = torch.tensor([[*prompt.tolist(), *response.tolist()]])
    logits = model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(response).long()[:, None])[:, 0]


def written_out(models: tuple[Any, Any], questions: Questions, config: GroupRLConfig, rows: Any) -> torch.Tensor:
    """The loss of these rows by loops over answers and tokens, with the advantages of the whole step."""
    rollouts, rewards = step(questions)
    model, reference = models
    pools = rollouts.group if config.settled("pool") == "group" else rollouts.problem
    known = [row for row in rows if rewards.known[row]]
    tokens = sum(len(rollouts.responses[row]) for row in known)
    whole = torch.zeros((), dtype=torch.float64)
    for row in known:
        mates = [r for r in range(N) if pools[r] == pools[row] and rewards.known[r]]
        values = rewards.values[mates]
        flat = len(set(values)) == 1
        prompt, response = rollouts.prompts[row], rollouts.responses[row]
        original = questions.prompts[questions.table.groups[rollouts.group[row]][0]]
        after = prompt if config.ratio_context == "own" else original
        new = logprobs(model, after, response, config.temperature)
        if config.ratio_context == "original_swap":
            old = new.detach()  # before the first update
        else:
            old = torch.tensor(rollouts.logprobs[row]).double()
        ratio = torch.exp(new - old)
        if config.objective == "nft":
            p = float(np.clip(values.mean(), 0.02, 0.98))
            weight = [1.0, 1 - p, np.sqrt((1 - p) / p)][config.nft_weight]
            implied = (1 - p * ratio) / (1 - p)
            floored = implied.detach().clamp(min=1.0) + implied - implied.detach()
            losses = -torch.log(ratio) if rewards.values[row] else -config.nft_negative * torch.log(floored)
            losses = losses * weight * (not flat)
        else:
            scale = {"std": values.std(ddof=1) + config.epsilon, "none": 1.0}[config.settled("scale")]
            advantage = 0.0 if flat else (rewards.values[row] - values.mean()) / scale
            bounded = ratio.clamp(1 - config.clip_low, 1 + config.settled("clip_high"))
            losses = -torch.minimum(ratio * advantage, bounded * advantage)
        if config.kl_beta and (config.kl_on_flat or not flat):
            d = logprobs(reference, after, response, config.temperature).detach() - new
            losses = (
                losses + config.kl_beta * {"k1": -d, "k2": d**2 / 2, "k3": torch.exp(d) - d - 1}[config.kl_estimator]
            )
        share = {"sequence": len(response) * len(known), "token": tokens, "dr": len(known) * config.max_new_tokens}
        whole = whole + losses.sum() / share[config.settled("normalizer")]
    return whole


WAYS: dict[str, dict[str, Any]] = {
    "ta-grpo": {},
    "grpo": {"objective": "grpo"},
    "dr-grpo": {"objective": "dr-grpo", "kl_beta": 0.3},
    "dapo": {"objective": "dapo", "kl_beta": 0.3, "kl_on_flat": False, "kl_estimator": "k2"},
    "nft": {"objective": "nft", "nft_weight": 1, "nft_negative": 0.5},
    "nft, pooled": {"objective": "nft", "pool": "group", "kl_beta": 0.1, "kl_estimator": "k1"},
    "importance": {"ratio_context": "original_is"},
    "swap": {"ratio_context": "original_swap"},
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    models: tuple[Any, Any], questions: Questions, way: str, shared: bool
) -> None:
    rows = np.arange(N)
    expected = written_out(models, questions, config(**WAYS[way]), rows)
    expected.backward()
    of_formula = gradient(models[0])
    assert np.abs(of_formula).max() > 1e-3
    rollouts, rewards = step(questions)
    for tokens in (1, 25, 10_000):
        settings = config(**WAYS[way], micro_batch_tokens=tokens, shared_prefix=shared)
        reference = models[1] if settings.kl_beta else None
        objective = Objective(models[0], settings, reference=reference)
        judged = judge(rollouts, rewards, questions, settings)
        facts = objective.backward(judged, objective.old_logprobs(judged), rows)
        assert facts is not None
        # norms of the model and old log-probabilities are float32
        np.testing.assert_allclose(gradient(models[0]), of_formula, rtol=1e-5, atol=1e-6)
        assert facts["loss"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def test_parts_of_a_step_have_the_advantages_of_the_step_and_counts_of_their_own(
    models: tuple[Any, Any], questions: Questions
) -> None:
    settings = config(scale="none")
    rollouts, rewards = step(questions)
    objective = Objective(models[0], settings)
    judged = judge(rollouts, rewards, questions, settings)
    for rows in (np.arange(6), np.arange(12, N)):
        written_out(models, questions, settings, rows).backward()
        expected = gradient(models[0])
        assert objective.backward(judged, rollouts.logprobs, rows) is not None
        np.testing.assert_allclose(gradient(models[0]), expected, rtol=1e-5, atol=1e-6)
    # the flat group alone moves nothing, and no pass is made for it
    assert objective.backward(judged, rollouts.logprobs, np.arange(6, 12)) is None


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each pass of a model reads, in order."""
    from penstock.training.group_rl import objective

    real, seen = objective.token_logprobs, []

    def counted(model: Any, prompts: Any, responses: Any, **options: Any) -> Any:
        seen.append(len(responses))
        return real(model, prompts, responses, **options)

    monkeypatch.setattr(objective, "token_logprobs", counted)
    return seen


def test_only_answers_that_move_a_weight_are_read(
    models: tuple[Any, Any], questions: Questions, read: list[int]
) -> None:
    rollouts, rewards = step(questions)
    for settings, passes in (
        (config(), [11]),  # 18 less a flat group of 6 and one that is not known
        (config(pool="problem"), [9]),  # flat: the second group's phrasings, and what is known of the first's first
        (config(kl_beta=0.1), [17, 17]),
        (config(kl_beta=0.1, kl_on_flat=False), [11, 11]),
        (config(ratio_context="original_swap"), [11, 11]),
    ):
        read.clear()
        reference = models[1] if settings.kl_beta else None
        objective = Objective(models[0], settings, reference=reference)
        judged = judge(rollouts, rewards, questions, settings)
        objective.backward(judged, objective.old_logprobs(judged), np.arange(N))
        assert read == passes
    models[0].zero_grad(set_to_none=True)


def test_micro_batches_keep_to_their_size(models: tuple[Any, Any], questions: Questions, read: list[int]) -> None:
    rollouts, rewards = step(questions)
    settings = config(micro_batch_tokens=20)
    objective = Objective(models[0], settings)
    judged = judge(rollouts, rewards, questions, settings)
    sizes = []
    for rows in objective._micro_batches(judged, np.arange(N)):
        prompts = {id(judged.prompts[row]): len(judged.prompts[row]) for row in rows}
        longest = max(len(rollouts.responses[row]) for row in rows)
        cost = len(prompts) * max(prompts.values()) + len(rows) * longest
        assert cost <= 20 or len(rows) == 1
        sizes.append(len(rows))
    assert sum(sizes) == N
    assert max(sizes) > 1


def test_facts_are_means_over_the_tokens_that_were_read(models: tuple[Any, Any], questions: Questions) -> None:
    """On policy every ratio is 1, though a third of the tokens belongs to a group without gradient."""
    rollouts, rewards = step(questions)
    settings = config(micro_batch_tokens=25)
    objective = Objective(models[0], settings)
    judged = judge(rollouts, rewards, questions, settings)
    with torch.no_grad():
        own = [
            logprobs(models[0], prompt, response, settings.temperature).float().numpy()
            for prompt, response in zip(rollouts.prompts, rollouts.responses, strict=True)
        ]
    facts = objective.backward(judged, own, np.arange(N))
    assert facts is not None
    assert facts["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert facts["approx_kl"] == pytest.approx(0.0, abs=1e-10)
    assert (facts["clipped_low"], facts["clipped_high"]) == (0.0, 0.0)
    models[0].zero_grad(set_to_none=True)


def test_a_flat_group_has_a_divergence_and_no_ratio(models: tuple[Any, Any], questions: Questions) -> None:
    rollouts, rewards = step(questions)
    objective = Objective(models[0], config(kl_beta=0.1), reference=models[1])
    judged = judge(rollouts, rewards, questions, objective.config)
    facts = objective.backward(judged, rollouts.logprobs, np.arange(6, 12))
    assert facts is not None
    assert set(facts) == {"loss", "kl"}
    assert facts["loss"] == pytest.approx(0.1 * facts["kl"])
    models[0].zero_grad(set_to_none=True)


def test_nft_refuses_rewards_that_say_neither_right_nor_wrong(questions: Questions) -> None:
    rollouts, rewards = step(questions)
    rewards.values[4] = 0.5
    with pytest.raises(ConfigError, match=r"nft with a reward of 0\.5, allowed 0 and 1"):
        judge(rollouts, rewards, questions, config(objective="nft"))
    rewards.values[4], rewards.values[1] = 0.0, 0.5  # that one is not known
    assert judge(rollouts, rewards, questions, config(objective="nft")).correct.sum() == 12

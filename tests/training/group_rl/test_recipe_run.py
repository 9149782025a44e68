"""A whole recipe, from problems that it makes to a model that learned from groups of answers to them."""

from __future__ import annotations

from penstock.dataset import Dataset
from penstock.pipelines.plan import plan
from penstock.recipe import Recipe
from penstock.report.record import RunRecord
from penstock.run import check, run

TEXT = """
name: learn
source: {procedural: {families: [gcd], count: 200}}
generate: {procedural: {families: [gcd]}, voyage: {count: 40, rounds: 4, anchors: 10}}
transform: {}
filters: {gopher_quality: null, gopher_repetition: null}
splits: {validation: 0.15, test: 0.15}
tokenizer: {vocabulary_size: 300, sample_mb: 0.1}
select: null
sequences: {length: 256}
train:
  {steps: 3, batch_size: 4, warmup_steps: 1, threads: 1, device: cpu, tensorboard: false, eval_sequences: 1,
   model: {hidden_size: 16, layers: 1, heads: 2, kv_heads: 1, ffn_size: 32}}
group_rl:
  {steps: 1, groups_per_step: 2, rollouts: 2, max_phrasings: 2, max_new_tokens: 4, held_out: 0.3, eval_problems: 4,
   eval_samples: 2, eval_ks: [1, 2], threads: 1, device: cpu, reward_workers: 1}
"""


def test_a_recipe_goes_from_problems_it_makes_to_a_model_that_learned_from_them(tmp_path):
    recipe, root = Recipe.parse(TEXT), tmp_path / "run"
    run(recipe, out=str(root), workers=0)
    policy, deduplicated = Dataset(f"{root}/policy-ta-grpo"), Dataset(f"{root}/deduplicated")
    assert policy.manifest.counts.rows_in == Dataset(f"{root}/transformed").table("problems").rows
    # what is held out is what the model before it did not read
    split = dict(zip(*(deduplicated.read("documents")[c].to_pylist() for c in ("doc_id", "split")), strict=True))
    step = plan(recipe)[-1]
    learned, held_out = step.problems_of({"transformed": Dataset(f"{root}/transformed")})
    sides = [{split[p.problem_id] for p in of.problems if p.problem_id in split} for of in (learned, held_out)]
    assert sides[0] == {"train"}
    assert sides[1]
    assert sides[1] <= {"validation", "test"}
    asked = policy.read("rollouts", ["question"])["question"].to_pylist()
    assert all(question.startswith("Question: ") and question.endswith("\nAnswer:") for question in asked)
    record = RunRecord.from_json((root / "record.json").read_text())
    assert (record.policy.model, record.policy.held_out) == ("model-1", len(held_out.groups))
    assert [found.name for found in record.policy.passes] == ["originals", "variants"]
    assert all(found.skip for found in check(recipe, out=str(root)))

"""Start-up stays light, the public surface is one short list, and no module shadows the standard library's."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import penstock

HEAVY = (
    "torch",
    "apache_beam",
    "prefect",
    "faiss",
    "transformers",
    "numba",
    "sklearn",
    "datasets",
    "pyarrow",
    "pydantic",
)
ROOT = Path(penstock.__file__).parent


def loaded_by(code):
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import penstock",
        "import penstock.cli",
        "import sys; sys.argv = ['penstock', '--help']\n"
        "from penstock.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass",
    ],
    ids=["package", "cli", "help"],
)
def test_nothing_heavy_is_loaded_at_start_up(code):
    assert not loaded_by(code) & set(HEAVY)


def test_a_recipe_loads_without_the_engines():
    engines = {"torch", "apache_beam", "prefect", "faiss", "transformers", "sklearn", "datasets"}
    assert not loaded_by("import penstock.recipe, penstock.run, penstock.pipelines.plan") & engines


PACKAGES = tuple(sorted(".".join(("penstock", *p.parent.relative_to(ROOT).parts)) for p in ROOT.rglob("__init__.py")))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_loads_is_documented_and_is_no_module(package):
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert names == sorted(names)
    for name in names:
        value = getattr(module, name)
        assert value.__doc__, name
        # a name that is also a submodule would change its meaning once that is imported
        assert not (Path(module.__file__).parent / f"{name}.py").exists(), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_the_public_surface_is_this_list():
    assert {p: getattr(importlib.import_module(p), "__all__", []) for p in PACKAGES} == {
        "penstock": ["Dataset", "Manifest", "PenstockError", "Recipe", "apply", "trace"],
        "penstock.diversity": [
            "AnchorFactor",
            "CholeskyFactor",
            "Cosine",
            "Gram",
            "Greedy",
            "KDPP",
            "Kernel",
            "Linear",
            "Mixture",
            "RBF",
            "Sample",
            "TokenJaccard",
            "Vendi",
            "VendiSummary",
            "greedy_map",
            "kdpp",
            "logdet_gain",
            "two_rounds",
            "vendi",
            "weighted",
        ],
        "penstock.embedding": [
            "Embed",
            "EmbedConfig",
            "Embedder",
            "Endpoint",
            "ModelConfig",
            "SentenceFolder",
            "StaticVectors",
            "unit_vectors",
        ],
        "penstock.flows": [
            "Deployments",
            "Outcome",
            "TokenizerMade",
            "build",
            "calibrate",
            "compare_tokenizers",
            "extend_tokenizer",
            "generate",
            "infer_tokenizer_mixture",
            "prune_tokenizer",
            "push",
            "refresh",
            "run",
            "score",
            "screen",
            "select",
            "train",
            "train_tokenizer",
            "transform",
        ],
        "penstock.generators": [
            "AnswerStore",
            "Budget",
            "ChatEndpoint",
            "Completion",
            "GeneratorConfig",
            "LanguageModel",
            "LocalModel",
            "Message",
            "Meter",
            "ModelSession",
            "Prices",
            "Request",
            "ServedModel",
            "Structured",
            "VLLMModel",
            "VLLMServer",
            "ask_structured",
        ],
        "penstock.generators.explorers": ["PrefixExplorer", "Prior", "ProceduralExplorer", "PromptExplorer"],
        "penstock.generators.gates": [
            "Contamination",
            "GatesConfig",
            "Jury",
            "Language",
            "Leaks",
            "Length",
            "Refusal",
            "Relevance",
            "RelevanceJudge",
            "SeedCopies",
            "index_benchmarks",
            "judged",
        ],
        "penstock.generators.transforms": [
            "Edit",
            "KINDS",
            "Maker",
            "NotApplicable",
            "Problem",
            "PromptedTransform",
            "TransformConfig",
            "Variant",
            "model_transforms",
            "rules_of",
        ],
        "penstock.generators.verification": [
            "AnswerVerifier",
            "Check",
            "EmbeddingBand",
            "Judge",
            "Judged",
            "Ladder",
            "ModelCheck",
            "Pair",
            "SolveAgreement",
            "Verified",
            "checks_of",
            "final_answer",
        ],
        "penstock.generators.voyager": [
            "Decision",
            "RoundRecord",
            "Spending",
            "ThresholdSettings",
            "Voyage",
            "VoyagerSettings",
            "explore",
        ],
        "penstock.pipelines": ["BeamEngine", "HomeEngine", "Pass", "Split", "run_pass"],
        "penstock.refreshing": ["Ledger", "Refreshed", "Round", "refresh"],
        "penstock.report": ["RunRecord", "write_report"],
        "penstock.scoring": [
            "LanguageModelScores",
            "load_causal_lm",
            "pack_texts",
        ],
        "penstock.selectors": [
            "AssignSplit",
            "BottomK",
            "C4Lines",
            "C4Quality",
            "C4Rules",
            "ExactDuplicates",
            "ExceptDomains",
            "FineWebQuality",
            "GopherQuality",
            "GopherRepetition",
            "LanguageFilter",
            "LanguageId",
            "LicenseFilter",
            "Normalise",
            "NotEmpty",
            "PiiFilter",
            "PiiMask",
            "PiiRules",
            "QuaDMixParameters",
            "QualityClassifier",
            "RefinedWebLines",
            "RefinedWebQuality",
            "RefinedWebRules",
            "Sampling",
            "SignalScore",
            "UrlBlocklist",
            "WordBlocklist",
        ],
        "penstock.selectors.proxies": [],
        "penstock.selectors.scorers": [
            "AskLLM",
            "ClassifierScore",
            "HeuristicScore",
            "PerplexityModel",
            "PerplexityScore",
            "Scorer",
        ],
        "penstock.selectors.search": [
            "Measured",
            "MixtureSpace",
            "Pool",
            "SearchResult",
            "SearchSettings",
            "ThetaSpace",
            "Trial",
            "fit_surrogate",
        ],
        "penstock.selectors.targeted": [],
        "penstock.sources": ["EnvironmentSource", "FileEntry", "FileSource", "HubEntry", "ProceduralSource"],
        "penstock.tokenization": [
            "BPEConfig",
            "ByteModel",
            "DynamicTokenizer",
            "Encode",
            "Merges",
            "Pairs",
            "group_from_the_right",
            "pack",
            "pack_table",
            "train_bpe",
        ],
        "penstock.tokenization.bytelevel": [
            "AlignTokenizers",
            "ByteDistributions",
            "ByteModel",
            "ByteSource",
            "ByteState",
            "ByteTokenizer",
            "Ensemble",
            "InfillLayout",
            "Sampling",
            "ServerModel",
            "TokenServer",
            "align",
            "generate",
            "generate_tokens",
            "heal_tokens",
            "infill",
            "middle_logprob",
            "prompt_tokens",
            "read",
        ],
        "penstock.tokenization.dynamic": [
            "BaseVocabulary",
            "CalibrationTable",
            "CompositionRows",
            "DynamicBatch",
            "DynamicModel",
            "DynamicTokenizer",
            "DynamicTokens",
            "HypernetConfig",
            "HypernetRows",
            "LargeVocabulary",
            "OutputIndex",
            "RowCache",
            "Sampling",
            "calibrate",
            "keyed_batches",
            "train_hypernet",
        ],
        "penstock.tokenization.patches": [
            "ByteLM",
            "EncodeEqualInfo",
            "PATCHES",
            "PatchRule",
            "byte_tokenizer",
            "entropies",
            "pool",
            "read_patches",
            "segment",
            "threshold_for",
            "train_byte_lm",
            "window_patches",
            "word_patches",
            "write_patches",
        ],
        "penstock.training": [
            "Batch",
            "CausalCollator",
            "DynamicGradientAlignment",
            "GradientProbe",
            "Mixer",
            "MixtureCallback",
            "MixtureLoader",
            "ModelConfig",
            "PolicyConfig",
            "PostStage",
            "SampleWeighter",
            "SequenceStore",
            "StreamStore",
            "Target",
            "TrainConfig",
            "TrainData",
            "TrainResult",
            "WeightingConfig",
            "chunked_cross_entropy",
            "document_scores",
            "export_megatron",
            "loss_weights",
            "open_megatron",
            "read_signals",
            "segment_losses",
            "starting_weights",
            "store_from_dataset",
            "train",
        ],
        "penstock.training.group_rl": [
            "Advantages",
            "GroupFacts",
            "GroupRLConfig",
            "GroupRLResult",
            "PooledAdvantages",
            "Problem",
            "ProblemTable",
            "can_share_prefix",
            "group_advantages",
            "kl_divergence",
            "largest_variance",
            "learn",
            "nft_loss",
            "pass_at_k",
            "policy_loss",
            "question_weights",
            "token_logprobs",
            "whole_groups",
            "z_pool",
            "z_single",
        ],
        "penstock.training.mixing": [
            "AdaptiveDataOptimization",
            "Cadence",
            "Cooldown",
            "DoReMi",
            "DynamicGradientAlignment",
            "ImportanceSampling",
            "Mixer",
            "MixingLaws",
            "MixingPolicy",
            "Mixture",
            "Observation",
            "OnlineDataMixing",
            "PolicyConfig",
            "PostStage",
            "RegMix",
            "RegroupAndBalance",
            "Signal",
            "Static",
            "Update",
            "candidates",
            "histogram",
            "mean_of_best",
            "policy_of",
            "starting_weights",
            "votes",
        ],
        "penstock.view": ["serve_view"],
    }


def test_no_script_runs_from_inside_the_package():
    for path in ROOT.glob("*.py"):
        if path.name != "__main__.py":
            assert '__name__ == "__main__"' not in path.read_text(), path.name
    assert not (ROOT.parent / "selectors").exists()
    subprocess.run(
        [sys.executable, "-c", "import subprocess, selectors; selectors.DefaultSelector()"], check=True, cwd=ROOT.parent
    )


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_house_rules_hold_in_every_module(path):
    tree = ast.parse(path.read_text())
    assert path.name == "__init__.py" or ast.get_docstring(tree), "every module says what it is"
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "bare except"
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), "star import"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            names = [n.id for n in (node.left, node.right) if isinstance(n, ast.Name)]
            assert "seed" not in names, "seeds are derived by path, never added to"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), "no eval"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert "pickle" not in {getattr(node, "module", None), *(a.name for a in node.names)}, "no pickle"

"""Every Python block of docs/adapters.md runs as it is printed, in order, on real data with real steps."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import penstock
from penstock.training.megatron import documents_of, export_megatron

datasets = pytest.importorskip("datasets")

PAGE = (Path(penstock.__file__).parent.parent / "docs" / "adapters.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def names(tiny_data, tmp_path, monkeypatch):
    """What the page says is the reader's own, and the files that its examples name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16,
        )
    )  # fmt: skip
    rows = [{"input_ids": [1 + (i + j) % 31 for j in range(5 + i % 4)], "source": "ab"[i % 2]} for i in range(40)]
    datasets.Dataset.from_list(rows).save_to_disk("tokenised")
    (web,) = export_megatron({"d": tiny_data.train["web"]}, "made/web")
    (code,) = export_megatron({"d": tiny_data.train["code"]}, "made/code")
    Path("data").mkdir()
    for source, target in ((web, "web_text_document"), (code, "code-0"), (web, "code-1")):
        for ending in ("bin", "idx"):
            Path(f"data/{target}.{ending}").write_bytes(Path(f"{source.prefix}.{ending}").read_bytes())
    return {
        "model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=3e-3),
        "files": tiny_data.train, "digest": tiny_data.fingerprint,
    }  # fmt: skip


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def test_the_blocks_of_the_page_run_in_order(names):
    model, losses = names["model"], []
    model.register_forward_hook(lambda module, given, out: losses.append(out.loss) if out.loss is not None else None)
    five, policy, torch_loader, trainer, dataset, megatron, export = (compile(b, "adapters.md", "exec") for b in BLOCKS)

    exec(five, names)  # noqa: S102 - the page's own code
    assert len(losses) == 20
    assert float(losses[-1]) < float(losses[0]) - 0.1
    assert names["loader"].consumed == 20 * 8

    before = weights(model)
    exec(policy, names)  # noqa: S102
    assert not torch.equal(weights(model), before)
    assert names["checkpoint"]["mixer"]["updates"] == 4
    assert names["loader"].effective_from(1) == (5 + 8) * 8
    assert names["loader"].weights_of(1) != names["loader"].weights_of(0)

    before = weights(model)
    exec(torch_loader, names)  # noqa: S102
    assert not torch.equal(weights(model), before)
    log, at = names["loader"].log, (5 + 8) * 8
    domains, _, versions, _ = log.locate(np.arange(20 * 8))
    assert versions.tolist() == [0] * at + [1] * (20 * 8 - at)
    assert set(domains[at:].tolist()) == {names["store"].domains.index("web")}
    assert set(domains[:at].tolist()) == {0, 1}

    before = weights(model)
    exec(trainer, names)  # noqa: S102
    assert not torch.equal(weights(model), before)
    assert pq.read_table("out/policy_log")["step"].to_pylist() == [5, 10, 15, 20]
    assert sorted(path.name for path in Path("out").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-20"]

    exec(dataset, names)  # noqa: S102
    assert names["store"].domains == ("a", "b")
    exec(megatron, names)  # noqa: S102
    assert names["store"].domains == ("web", "code")
    exec(export, names)  # noqa: S102
    assert sorted(path.name for path in Path("data").glob("export-*.bin")) == ["export-code.bin", "export-web.bin"]
    assert [d.tolist() for d in documents_of("data/export-web")] == [d.tolist() for d in documents_of("made/web-d")]


def test_the_first_example_is_five_lines_beside_the_loop_that_was_there():
    own = [line for line in BLOCKS[0].splitlines() if line and not line.startswith("from ")]
    there = ("loss.backward()", "optimizer.step()", "optimizer.zero_grad()")
    assert len([line for line in own if line.strip() not in there]) == 5


def test_links_to_files_of_the_project_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (Path(penstock.__file__).parent.parent / "docs" / target).exists(), target

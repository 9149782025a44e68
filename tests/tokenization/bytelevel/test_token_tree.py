"""pytest tests/tokenization/bytelevel/test_token_tree.py"""

import numpy as np
import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel import token_tree
from penstock.tokenization.bytelevel.token_tree import CausalTree, FunctionTree, Node

SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2}


def llama(**more):
    return LlamaForCausalLM(
        LlamaConfig(
            **{
                **SMALL,
                "intermediate_size": 48,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "initializer_range": 0.4,
                **more,
            }
        )
    )


MODELS = {
    "llama": llama,
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.4)
    ),
    # its position is read off the mask, so it is read whole
    "falcon with alibi": lambda: FalconForCausalLM(
        FalconConfig(**SMALL, num_attention_heads=4, alibi=True, initializer_range=0.4)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SMALL, initializer_range=0.4)),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices of this size are no faster with several, and much slower where others compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[request.param]().eval()


def plain(model, node):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([node.ids()])).logits[0, -1].float().numpy()


def grow(rng, nodes, count):
    out = []
    for _ in range(count):
        parent = nodes[rng.integers(len(nodes))] if nodes else None
        out.append(Node(parent, int(rng.integers(40))))
        nodes.append(out[-1])
    return out


@pytest.mark.parametrize("model", MODELS, indirect=True)
@pytest.mark.parametrize("room", [1024, 4])
def test_a_tree_gives_what_each_context_gives_alone(model, room, monkeypatch):
    monkeypatch.setattr(token_tree, "_POSITIONS", room)
    rng = np.random.default_rng(0)
    tree, nodes = CausalTree(model), []
    for count in (1, 12, 1, 5, 8):
        found, new = {}, grow(rng, nodes, count)
        tree.evaluate(new, lambda node, logits, found=found: found.__setitem__(id(node), logits.copy()))
        assert len(found) == count
        for node in new:
            np.testing.assert_allclose(found[id(node)], plain(model, node), atol=2e-4, rtol=1e-4)


def test_a_node_below_an_evaluated_one_costs_one_position():
    tree = CausalTree(llama())
    nodes = [Node(None, 1)]
    for token in range(9):
        nodes.append(Node(nodes[-1], token))
    tree.evaluate(nodes, lambda *_: None)
    assert (tree.positions, tree.passes) == (10, 1)
    tree.evaluate([Node(nodes[-1], 3), Node(nodes[4], 3)], lambda *_: None)
    assert (tree.positions, tree.passes) == (12, 2)


def test_keys_and_values_of_contexts_that_are_gone_are_used_again():
    tree = CausalTree(llama())
    for _ in range(14):
        nodes = [Node(None, 1)]
        for token in range(19):
            nodes.append(Node(nodes[-1], token))
        tree.evaluate(nodes, lambda *_: None)
        del nodes
    assert tree._pool.size == 256


def test_a_context_longer_than_the_model_reads_is_refused():
    tree = CausalTree(llama(max_position_embeddings=8))
    nodes = [Node(None, 1)]
    for token in range(8):
        nodes.append(Node(nodes[-1], token))
    with pytest.raises(InputError, match="a context of 9 tokens, allowed 8"):
        tree.evaluate(nodes, lambda *_: None)


def test_what_is_no_language_model_is_refused():
    with pytest.raises(ConfigError, match="gives no logits for token ids"):
        CausalTree(torch.nn.Linear(2, 2))


def test_a_function_of_contexts_will_do():
    class Counts:
        size = 3

        def logits(self, contexts):
            return np.array([np.bincount(ids, minlength=3) for ids in contexts], dtype=float)

    tree = FunctionTree(Counts())
    root = Node(None, 1)
    found = []
    tree.evaluate([root, Node(root, 1), Node(root, 2)], lambda node, logits: found.append(logits.tolist()))
    assert found == [[0, 1, 0], [0, 2, 0], [0, 1, 1]]
    assert (tree.positions, tree.passes) == (3, 1)

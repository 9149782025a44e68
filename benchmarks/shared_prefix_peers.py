"""prefix-grouper on the model and the answers of benchmarks/shared_prefix.py, which are here too.

Run it with the Python of an environment that holds requirements-prefix.txt; it imports nothing of penstock:

    python benchmarks/shared_prefix_peers.py --prompt 256 --group 8

The package cuts queries, keys and values into prompts and answers inside every layer and leaves attention to a function
of the user's. Here that is PyTorch's SDPA: causal for prompts, and for answers one mask for all rows, as lengths are
equal. One thread; seconds are of processor time. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

ANSWERS, LENGTH, VOCABULARY = 32, 64, 4096


def model_of() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def answers(prompt: int, group: int) -> tuple[Any, Any]:
    """Token ids of ANSWERS // group prompts and of ANSWERS responses."""
    draw = np.random.default_rng(0)
    prompts = draw.integers(0, VOCABULARY, (ANSWERS // group, prompt), dtype=np.int32)
    return prompts, draw.integers(0, VOCABULARY, (ANSWERS, LENGTH), dtype=np.int32)


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    return parser.parse_args()


def peak() -> int:
    """Bytes, the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(model: Any, logprobs: Callable[[int, int], torch.Tensor], given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of log-probabilities and their gradient, the memory they took, and what they were."""

    def once(prompt: int, group: int) -> float:
        weights = torch.linspace(-1.0, 1.0, ANSWERS * LENGTH).view(ANSWERS, LENGTH)
        loss = (logprobs(prompt, group) * weights).sum()
        loss.backward()
        return loss.item()

    once(4, 16)  # libraries set themselves up, and gradients are there, before the clock starts and the peak is read
    model.zero_grad(set_to_none=False)
    before, started = peak(), time.process_time()
    loss = once(given.prompt, given.group)
    seconds = time.process_time() - started
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()
    return {"seconds": seconds, "peak": peak() - before, "loss": loss, "gradient": norm}


def main() -> None:
    from prefix_grouper import PrefixGrouper
    from transformers import AttentionInterface

    given = options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    torch.set_num_threads(1)
    model = model_of()

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, *, grouper: Any, causal: Any, **named: Any) -> Any:
        def sdpa(q: Any, k: Any, v: Any, padding: Any) -> Any:
            k, v = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (k, v))
            whole = q.shape[2] == k.shape[2]
            of = {"is_causal": True} if whole else {"attn_mask": causal}
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=named["scaling"], **of)
            return out.transpose(1, 2).contiguous()

        return grouper.forward(sdpa, q, k, v), None

    AttentionInterface.register("grouped", attend)
    model.set_attn_implementation("grouped")

    def logprobs(prompt: int, group: int) -> torch.Tensor:
        prompts, responses = (torch.from_numpy(part).long() for part in answers(prompt, group))
        read = responses[:, :-1]  # the last token predicts nothing
        prompt_mask, read_mask = torch.ones_like(prompts), torch.ones_like(read)
        grouper = PrefixGrouper.from_ungrouped_masks(prompt_mask, read_mask, group)
        tokens = grouper.concat_input(prompts, prompt_mask, read, read_mask)
        width = read.shape[1]
        positions = torch.cat([torch.arange(prompt), (prompt + torch.arange(width)).repeat(group)])[None]
        causal = torch.cat([torch.ones(width, prompt), torch.ones(width, width).tril()], dim=1).bool()[None, None]
        hidden = model.base_model(
            input_ids=tokens, position_ids=positions, use_cache=False, grouper=grouper, causal=causal
        ).last_hidden_state
        _, _, states, _ = grouper.split_output(hidden, include_prefix_last=1)
        return torch.log_softmax(model.lm_head(states), dim=-1).gather(-1, responses[..., None])[..., 0]

    print(json.dumps(timed(model, logprobs, given)))


if __name__ == "__main__":
    main()

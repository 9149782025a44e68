"""The sides of benchmarks/shared_prefix.py that are ours: ``python -m benchmarks.shared_prefix_sides KIND …``.

    whole     every answer read with its prompt
    shared    every prompt read once

One thread; seconds are of processor time. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json

import torch

from benchmarks.shared_prefix_peers import answers, model_of, options, timed
from penstock.training.group_rl.forward import can_share_prefix, token_logprobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["whole", "shared"])
    given = options(parser)
    torch.set_num_threads(1)
    model = model_of()
    shared = given.kind == "shared"
    assert can_share_prefix(model)

    def logprobs(prompt: int, group: int) -> torch.Tensor:
        prompts, responses = answers(prompt, group)
        rows = [row for row in prompts for _ in range(group)]
        return torch.stack(token_logprobs(model, rows, list(responses), shared_prefix=shared))

    print(json.dumps(timed(model, logprobs, given)))


if __name__ == "__main__":
    main()

"""One rank of test_advantages: ``python advantages_rank.py PLAN`` prints what every case gave as JSON.

PLAN is JSON: rank, world_size, a file that ranks meet at, scales, and cases by name, each this rank's rewards, ids and
what is known. A case that is refused gives the message.
"""

import json
import sys
from typing import Any

import numpy as np
import torch.distributed as dist

from penstock.errors import InputError
from penstock.training.distributed import Ranks, join
from penstock.training.group_rl.advantages import group_advantages


def found(case: Any, scale: Any, ranks: Ranks) -> Any:
    rewards, groups, known = case
    try:
        out = group_advantages(rewards, groups, known=np.array(known, np.bool_), scale=scale, ranks=ranks)
    except InputError as error:
        return str(error)
    return {"values": out.values.tolist(), "size": out.size.tolist(), "facts": out.facts.to_json()}


def main(plan: Any) -> Any:
    dist.init_process_group(
        "gloo", init_method=f"file://{plan['meet']}", rank=plan["rank"], world_size=plan["world_size"]
    )
    with join(timeout=60.0) as ranks:
        out = {n: {s: found(case, s, ranks) for s in plan["scales"]} for n, case in plan["cases"].items()}
    dist.destroy_process_group()
    return out


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))

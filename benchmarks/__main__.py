"""Run every benchmark and rewrite benchmarks/RESULTS.md: ``python -m benchmarks [--quick] [--data DIR] [NAME …]``.

Each benchmark is a process of its own. One that fails does not keep the others from running; the exit code says so.
RESULTS.md is made from all files under benchmarks/results/, also of benchmarks that were not run this time.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.harness import RESULTS, ROOT, markdown, parser

BENCHMARKS = (
    "startup", "build", "filters", "dedup", "contamination", "embedding", "loader", "loss", "weighting", "mixing",
    "sampling", "criteria", "search", "quadmix", "selection", "gradients", "scoring", "diversity", "bytelevel",
    "tokenizer_training", "tokenization", "shared_prefix",
    "mixture_inference", "patches", "fim", "dynamic", "dynamic_quality", "incremental", "memory", "scaling", "generate",
    "voyager", "voyager_model", "gates", "verification", "transforms", "ta_grpo",
)  # fmt: skip


def main() -> int:
    command = parser(__doc__)
    command.add_argument("names", nargs="*", metavar="NAME", help=f"which to run; default: {', '.join(BENCHMARKS)}")
    arguments = command.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        command.error(f"got {', '.join(unknown)}, allowed {', '.join(BENCHMARKS)}")
    options = ["--quick"] * arguments.quick + (["--data", str(arguments.data.resolve())] if arguments.data else [])
    failed = [
        name
        for name in arguments.names or BENCHMARKS
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, check=False).returncode
    ]
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    order = [name for name in BENCHMARKS if name in found]
    report = ROOT / "benchmarks" / "RESULTS.md"
    report.write_text(markdown([found[name] for name in order]))
    print(f"{report.relative_to(ROOT)} written" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

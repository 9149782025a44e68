"""Freed memory goes back to the system after a split."""

import subprocess
import sys

import pytest

from penstock.pipelines import passes

SCRIPT = """
import psutil, pyarrow as pa
from penstock.pipelines.passes import give_back_memory

pool = pa.system_memory_pool()
# below the size that malloc maps on its own; the last one keeps the heap from shrinking from its top
held = [pa.allocate_buffer(60_000, memory_pool=pool) for _ in range(4000)]
for buffer in held:
    memoryview(buffer).cast("B")[::4096] = bytes(len(range(0, 60_000, 4096)))
last = held.pop()
del buffer, held
before = psutil.Process().memory_info().rss
give_back_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(passes._malloc_trim() is None, reason="this C library has no malloc_trim")
def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000, "most of 240 MB"

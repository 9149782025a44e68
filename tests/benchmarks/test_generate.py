"""The sides of benchmarks/generate.py ask the same of the same server."""

import asyncio
import time

import orjson
import pytest

from benchmarks import generate_sides as sides


@pytest.mark.server
@pytest.mark.parametrize("side", [sides.raw, sides.pool, sides.session])
def test_every_side_sends_each_request_once_and_waits_for_its_answer(side):
    wanted = sides.requests(20 + sides.WARM, 4)

    async def run():
        seen = []
        server, url = await sides.listening(0.05, seen)
        async with server:
            started = time.perf_counter()
            took = await side(url, "stub", wanted, 5)
            return seen, took["seconds"], time.perf_counter() - started

    seen, seconds, whole = asyncio.run(run())
    bodies = [orjson.loads(body) for body in seen]
    assert sorted(body["prompt"] for body in bodies) == sorted(request.prompt for request in wanted)
    assert {(body["max_tokens"], body["model"]) for body in bodies} == {(4, "stub")}
    least = 20 / 5 * 0.05 * sides.LEAST / (sides.LEAST + sides.MORE)
    assert least <= seconds < whole, "what is warmed up by is not counted"

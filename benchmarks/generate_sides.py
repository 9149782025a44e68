"""The sides of benchmarks/generate.py, a process of its own each: ``python -m benchmarks.generate_sides MODE …``.

    make      a folder with a small model
    stub      a server on loopback that speaks OpenAI's completions and answers after a time drawn for each request
    raw       workers, each with a connection of its own, that post the same bodies with httpx and read the JSON: what
              the server can do
    pool      the same with one client of httpx for all, as programs have it
    session   ModelSession over ChatEndpoint with an empty store: digests, limits, retries, counting, SQLite

All keep as many requests in flight over as many connections. The last line printed is JSON; ``stub`` prints
its address first and runs until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson

from penstock.generators.base import Request
from penstock.seeding import stream

LEAST, MORE = 0.6, 0.4  # seconds of an answer: the least, and the mean of what comes on top (exponential)
WARM = 8  # requests before the clock starts


def requests(count: int, tokens: int) -> list[Request]:
    """Prompts of some 60 words that are all different."""
    rng = stream(0, "generate", "prompts")
    words = [f"word{i}" for i in range(500)]
    return [
        Request(prompt=f"{n} " + " ".join(rng.choice(words, 60)), max_tokens=tokens, temperature=1.0, seed=n)
        for n in range(count)
    ]


def _answer(body: bytes, seconds: float) -> tuple[float, bytes]:
    asked = orjson.loads(body)
    drawn = int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "little") / 2**64
    rng = stream(int(drawn * 2**62), "generate", "latency")
    wait = seconds * (LEAST + float(rng.exponential(MORE))) / (LEAST + MORE)
    text = "an answer of about as many words as models give " * 10
    usage = {"prompt_tokens": len(asked["prompt"].split()), "completion_tokens": asked["max_tokens"]}
    return wait, orjson.dumps({"choices": [{"index": 0, "text": text, "finish_reason": "length"}], "usage": usage})


class Clock:
    """Seconds, and seconds of this process's processor time, since it was made."""

    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._started, "cpu": time.process_time() - self._cpu}


def make(folder: Path) -> None:
    """A Llama with random weights whose vocabulary is that of a tokenizer of this Python's library."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.embedding import pieces
    from penstock.tokenization.bpe import BPEConfig, train_bpe

    tokenizer = train_bpe(pieces(None, 2500, 100), BPEConfig(vocabulary_size=4096))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=max(orjson.loads(tokenizer)["model"]["vocab"].values()) + 1,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


async def listening(seconds: float, seen: list[bytes] | None = None) -> tuple[asyncio.Server, str]:
    """A stub server and its address; ``seen`` collects the bodies."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                if seen is not None:
                    seen.append(body)
                wait, data = _answer(body, seconds)
                await asyncio.sleep(wait)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
                    + data
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def stub(seconds: float) -> None:
    server, url = await listening(seconds)
    print(url, flush=True)
    await server.serve_forever()


async def loop(url: str, model: str, wanted: list[Request], width: int, clients: int) -> dict[str, float]:
    import httpx

    from penstock.generators.endpoint import body_of

    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=width, max_keepalive_connections=width)
        made = [httpx.AsyncClient(limits=limits, timeout=120.0, verify=False) for _ in range(clients)]
        for client in made:
            await stack.enter_async_context(client)

        async def worker(client: httpx.AsyncClient, coming: Iterator[Request]) -> None:
            for request in coming:
                path, body = body_of(model, request)
                answer = await client.post(f"{url}/{path}", json=body)
                answer.raise_for_status()
                orjson.loads(answer.content)["choices"][0]["text"]

        async def all_of(some: list[Request]) -> None:
            coming = iter(some)
            await asyncio.gather(*(worker(made[n % clients], coming) for n in range(width)))

        await all_of(wanted[:WARM])
        clock = Clock()
        await all_of(wanted[WARM:])
        return clock.read()


async def raw(url: str, model: str, wanted: list[Request], width: int) -> dict[str, float]:
    return await loop(url, model, wanted, width, width)


async def pool(url: str, model: str, wanted: list[Request], width: int) -> dict[str, float]:
    return await loop(url, model, wanted, width, 1)


async def session(url: str, model: str, wanted: list[Request], width: int) -> dict[str, float]:
    from penstock.generators.answers import AnswerStore
    from penstock.generators.endpoint import ChatEndpoint
    from penstock.generators.session import ModelSession

    endpoint = ChatEndpoint(url=url, model=model, concurrency=width, timeout=120.0)
    with tempfile.TemporaryDirectory() as folder:
        asked = ModelSession(endpoint, store=AnswerStore(path=f"{folder}/answers.sqlite"))
        await asked.complete(wanted[:WARM])
        clock = Clock()
        found = await asked.complete(wanted[WARM:])
        took = clock.read()
    failed = [one.error for one in found if one.error is not None]
    if failed or asked.meter.asked != len(wanted):
        raise SystemExit(f"{len(failed)} of {len(found)} requests failed, for one {failed[:1]}")
    return took


def main() -> None:
    command = argparse.ArgumentParser()
    command.add_argument("mode", choices=("make", "stub", "raw", "pool", "session"))
    command.add_argument("--folder", type=Path)
    command.add_argument("--seconds", type=float, default=LEAST + MORE)
    command.add_argument("--url")
    command.add_argument("--model", default="stub")
    command.add_argument("--count", type=int, default=0)
    command.add_argument("--tokens", type=int, default=16)
    command.add_argument("--width", type=int, default=64)
    given = command.parse_args()
    if given.mode == "stub":
        asyncio.run(stub(given.seconds))
        return
    if given.mode == "make":
        make(given.folder)
        print("{}")
        return
    side = {"raw": raw, "pool": pool, "session": session}[given.mode]
    wanted = requests(given.count + WARM, given.tokens)
    print(json.dumps(asyncio.run(side(given.url, given.model, wanted, given.width))))


if __name__ == "__main__":
    main()

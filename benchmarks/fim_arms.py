"""The arms of ``benchmarks.fim``: how a hole is filled greedily from a prompt.

By tokens it is ``generate`` of transformers on the prompt's own encoding. Healed, the last token of the encoding is
taken back and the next is the likeliest of those whose bytes begin with it, then ``generate`` goes on; unlike
``generate(token_healing=True)`` nothing is stripped from the prompt. By bytes it is penstock's next-byte distributions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import fim_data
from penstock.tokenization.bpe import END
from penstock.tokenization.bytelevel.reading import BYTE_OF
from penstock.tokenization.bytelevel.sampling import Sampling, continue_state, streams_of
from penstock.tokenization.bytelevel.vocabulary import ROOT

if TYPE_CHECKING:
    from penstock.tokenization.bytelevel.model import ByteModel

ROWS = 64  # prompts at a time
# whatever is no part of an identifier ends an answer
ENDS = tuple(bytes([byte]) for byte in range(256) if not (byte < 128 and (chr(byte).isalnum() or chr(byte) == "_")))
SETTINGS = Sampling(max_bytes=fim_data.LONGEST, temperature=0.0, stop=ENDS)


def language_model(folder: Path, name: str) -> Any:
    """A trained model."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()


def byte_model(folder: Path, name: str) -> ByteModel:
    """A trained model with its vocabulary."""
    from penstock.tokenization.bytelevel.model import ByteModel

    return ByteModel(language_model(folder, name), str(folder / f"{name}.json"))


def by_bytes(folder: Path, name: str, prompts: Sequence[bytes], *, told: bool = False) -> list[bytes]:
    """What exact bytes continue each prompt with, up to the first byte that is no part of an identifier.

    Args:
        told: whether they are told that a token ends with the prompt, as encoding the prompt says.
    """
    model = byte_model(folder, name)
    out = []
    for start in range(0, len(prompts), ROWS):
        some = prompts[start : start + ROWS]
        state = model.start(some, special=True)
        if told:
            # a control alone: no cursor knows it, so the state has no name for it
            state._rows = [[head for head in heads or () if head.trie == ROOT] for heads in state._rows]
        found = continue_state(state, SETTINGS, streams_of(some, SETTINGS.seed, 1))
        out += [one.data + one.stop for one in found]
    return out


def token_ends(folder: Path, name: str, prompts: Sequence[bytes]) -> list[float]:
    """P(a token ends where the prompt does | its bytes) for each prompt."""
    model = byte_model(folder, name)
    out = []
    for start in range(0, len(prompts), ROWS):
        state = model.start(prompts[start : start + ROWS], special=True)
        for row in range(state.size):
            covers, log_probs = state.covers(row)
            out.append(sum(math.exp(p) for cover, p in zip(covers, log_probs.tolist(), strict=True) if not cover.tail))
    return out


class ByTokens:
    """Tokens after a prompt's encoding, with or without healing."""

    def __init__(self, folder: Path, name: str) -> None:
        self._model = language_model(folder, name)
        self._tokenizer = fim_data.load_vocabulary(folder / f"{name}.json")
        self._end = self._tokenizer.token_to_id(END)
        state = json.loads((folder / f"{name}.json").read_text())
        special = {token["id"] for token in state["added_tokens"]}
        self._spelt = {
            number: b"" if number in special else bytes(BYTE_OF[letter] for letter in token)
            for token, number in state["model"]["vocab"].items()
        }

    def encode(self, prompt: bytes) -> list[int]:
        """Special tokens that the prompt spells are these tokens."""
        return [self._end, *self._tokenizer.encode(prompt.decode(), add_special_tokens=False).ids]

    def fill(self, prompts: Sequence[bytes], *, heal: bool) -> list[bytes]:
        """What tokens continue each prompt with, up to the first byte that is no part of an identifier."""
        out: list[bytes] = []
        for start in range(0, len(prompts), ROWS):
            contexts = [self.encode(prompt) for prompt in prompts[start : start + ROWS]]
            taken = [self._spelt[ids[-1]] if heal else b"" for ids in contexts]
            contexts = [ids[:-1] if back else ids for ids, back in zip(contexts, taken, strict=True)]
            drawn = self._greedy(contexts, taken)
            for ids, back in zip(drawn, taken, strict=True):
                out.append(_first_part(b"".join(self._spelt[number] for number in ids)[len(back) :]))
        return out

    def _greedy(self, contexts: list[list[int]], taken: list[bytes]) -> list[list[int]]:
        """Tokens after each context; the first begins with the bytes that were taken back."""
        longest = max(map(len, contexts))
        ids = torch.full((len(contexts), longest), self._end)
        mask = torch.zeros_like(ids)
        for row, context in enumerate(contexts):
            ids[row, longest - len(context) :] = torch.tensor(context)
            mask[row, longest - len(context) :] = 1
        allowed = [[n for n, spelt in self._spelt.items() if back and spelt.startswith(back)] for back in taken]

        class FirstToken:
            """Only extensions of what was taken back may come first."""

            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                if input_ids.shape[1] > longest:
                    return scores
                out = scores.clone()
                for row, some in enumerate(allowed):
                    if some:
                        out[row] = -torch.inf
                        out[row, some] = scores[row, some]
                return out

        with torch.inference_mode():
            made = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=fim_data.LONGEST,
                do_sample=False,
                pad_token_id=self._end,
                logits_processor=[FirstToken()],
            )
        rows = made[:, longest:].tolist()
        return [row[: row.index(self._end)] if self._end in row else row for row in rows]


def _first_part(data: bytes) -> bytes:
    """Up to and with the first byte that is no part of an identifier; what is longer than an answer may be is cut."""
    place = next((i for i, byte in enumerate(data) if bytes([byte]) in ENDS), len(data))
    return data[: min(place + 1, fim_data.LONGEST)]

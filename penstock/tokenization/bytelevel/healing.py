"""Prompting a model of tokens with text: as it is, and with one token of healing. What exact bytes are compared with.

    prompt_tokens(model, ["return self._attr"], Sampling(temperature=0.0))
    heal_tokens(model, ["return self._attr"], Sampling(temperature=0.0))

``prompt_tokens`` encodes the prompt and goes on with ordinary tokens, so a cut inside a token stays one: the model is
asked for what follows tokens that its training data has in no such place.

``heal_tokens`` takes the last token back and draws the next among the tokens whose bytes begin with it (the token
itself is one of them), then goes on with ordinary tokens: the token healing of the guidance library and of
``generate(token_healing=True)`` in transformers, but nothing is stripped from the prompt. One token is taken back, so
a cut whose encoding has two and more tokens that the whole text would not have is out of its reach, and the draw
is not conditioned on the bytes exactly: it forgets how likely the encodings before the last token are.

Both take the model's next tokens as ``next_tokens`` gives them: a ``ByteModel`` masks tokens that no encoding goes on
with, which a plain decoding loop would not. Price: a model call a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InputError
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS, Bytes, Cover, TokenModel, bytes_of
from penstock.tokenization.bytelevel.sampling import Generated, Sampling, decode, grouped, streams_of


def next_byte_of_tokens(model: TokenModel, prompts: Sequence[Bytes]) -> NDArray[np.float64]:
    """log Σ P(t | encoding of the prompt) over the tokens t that begin with each byte, and of STOP: (n, 257).

    It is what the next byte of ``prompt_tokens`` follows, and no estimate of the next byte of a text: where the prompt
    is cut inside a token it leaves out all other encodings.
    """
    tokens, stops = model.next_tokens([model.encode(prompt) for prompt in prompts])
    first = np.array([token[0] if token else STOP for token in model.token_bytes])
    out = np.full((len(prompts), SYMBOLS), -np.inf)
    for byte in np.unique(first).tolist():
        # tokens without bytes that end no text are -inf, as they cannot follow
        out[:, byte] = np.logaddexp.reduce(tokens[:, first == byte], axis=1)
    out[:, STOP] = np.logaddexp(out[:, STOP], stops)
    return out


def prompt_tokens(
    model: TokenModel, prompts: Sequence[Bytes], settings: Sampling, *, samples: int = 1
) -> list[list[Generated]]:
    """Continuations of each prompt's own encoding, ``samples`` of each.

    Temperature and top-p work on tokens; ``logprob`` is that of the tokens after the encoding.
    """
    covers = [Cover(model.encode(prompt), b"") for prompt in prompts for _ in range(samples)]
    streams = streams_of(prompts, settings.seed, samples)
    return grouped(decode(model, covers, settings, streams, begun=[0.0] * len(covers)), samples)


def heal_tokens(
    model: TokenModel, prompts: Sequence[Bytes], settings: Sampling, *, samples: int = 1
) -> list[list[Generated]]:
    """Continuations of each prompt after its last token was taken back, ``samples`` of each.

    ``logprob`` is that of the tokens from the one taken back on, the first among those that begin like it. A prompt
    whose last token stands for no text, such as a sentinel, is not healed.

    Raises:
        InputError: a prompt is empty, so there is no token to take back.
    """
    vocabulary = model.token_bytes
    streams = streams_of(prompts, settings.seed, samples)
    covers: list[Cover] = []
    begun: list[float] = []
    for row, prompt in enumerate(prompts):
        ids = model.encode(prompt)
        if not bytes_of(prompt) or not ids:
            raise InputError("healing: got an empty prompt, allowed one with a token to take back; use prompt_tokens")
        taken = vocabulary[ids[-1]]
        mine = streams[row * samples : (row + 1) * samples]
        if not taken or len(ids) == 1:
            covers += [Cover(ids, b"")] * samples
            begun += [0.0] * samples
            continue
        extensions = np.flatnonzero([token.startswith(taken) for token in vocabulary])
        tokens, _ = model.next_tokens([ids[:-1]])
        log_probs = tokens[0, extensions]
        log_probs = log_probs - np.logaddexp.reduce(log_probs)
        for pick in settings.choose(np.tile(log_probs, (samples, 1)), mine).tolist():
            token = int(extensions[pick])
            covers.append(Cover([*ids[:-1], token], vocabulary[token][len(taken) :]))
            begun.append(float(log_probs[pick]))
    return grouped(decode(model, covers, settings, streams, begun=begun), samples)

"""Shared fixtures: models small enough to check by hand, of bytes and of tokens."""

import numpy as np
import pytest

from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS, Cover, bytes_of, over


class MarkovBytes:
    """ByteSource: the next symbol depends on the last byte alone.

    ``table``: log-probabilities by last byte, (256, 257); a text begins as after byte 0.
    """

    def __init__(self, table):
        self.table = table
        self.started = []  # prompts that were read

    @classmethod
    def random(cls, seed, alphabet=b"ab", stop=0.2):
        """Probabilities over a few bytes and STOP."""
        rng = np.random.default_rng(seed)
        table = np.full((256, SYMBOLS), -np.inf)
        for last in range(256):
            table[last, list(alphabet)] = np.log(rng.dirichlet(np.ones(len(alphabet)))) + np.log1p(-stop)
            table[last, STOP] = np.log(stop)
        return cls(table)

    def start(self, prompts, *, special=False):
        self.started += [bytes_of(prompt) for prompt in prompts]
        state = MarkovState(self.table, [b""] * len(prompts), np.zeros(len(prompts)))
        state.texts = [bytes_of(prompt) for prompt in prompts]
        for row, text in enumerate(state.texts):
            # a prompt may be impossible; what is drawn may not
            state.prefix_logprob[row] = sum(self.table[a, b] for a, b in zip(b"\0" + text, text, strict=False))
        return state


class MarkovState:
    def __init__(self, table, texts, prefix_logprob):
        self.table, self.texts, self.prefix_logprob = table, list(texts), prefix_logprob

    @property
    def size(self):
        return len(self.texts)

    def log_probs(self):
        rows = [over() if text is None else self.table[text[-1] if text else 0] for text in self.texts]
        return np.stack(rows)

    def advance(self, symbols):
        assert len(symbols) == self.size
        assert np.isfinite(self.log_probs()[np.arange(self.size), list(symbols)]).all()
        self.prefix_logprob = self.prefix_logprob + self.log_probs()[np.arange(self.size), list(symbols)]
        self.texts = [
            None if text is None or symbol == STOP else text + bytes([symbol])
            for text, symbol in zip(self.texts, symbols, strict=True)
        ]

    def fork(self, rows):
        return MarkovState(self.table, [self.texts[row] for row in rows], self.prefix_logprob[list(rows)])


@pytest.fixture(scope="session")
def markov():
    """The class of the model."""
    return MarkovBytes


class ToyTokens:
    """TokenModel, and ByteSource, by brute force: merges a+b, ab+c and c+c, and a next token that depends on the last.

    A sequence is valid when encoding its bytes gives it; what is not valid is masked and the rest normalised.
    """

    token_bytes = (b"", b"a", b"b", b"c", b"ab", b"abc", b"cc")
    merges = (((1, 2), 4), ((4, 3), 5), ((3, 3), 6))

    def __init__(self, seed, stop=0.15):
        rng = np.random.default_rng(seed)
        size = len(self.token_bytes)
        table = np.hstack([rng.dirichlet(np.full(size, 0.7), size=size) * (1 - stop), np.full((size, 1), stop)])
        self.table = table  # (V, V + 1): of the next token by the last one, the last column is STOP
        self.calls = 0

    def encode(self, text):
        ids = [self.token_bytes.index(bytes([byte])) for byte in bytes_of(text)]
        for pair, made in self.merges:
            at = 0
            while at + 1 < len(ids):
                if (ids[at], ids[at + 1]) == pair:
                    ids[at : at + 2] = [made]
                at += 1
        return [0, *ids]  # 0 begins a text

    def valid(self, ids):
        return self.encode(b"".join(self.token_bytes[i] for i in ids)) == list(ids)

    def next_tokens(self, contexts):
        self.calls += 1
        out = []
        for ids in contexts:
            allowed = [token > 0 and self.valid([*ids, token]) for token in range(len(self.token_bytes))]
            masked = np.where([*allowed, True], self.table[ids[-1]], 0.0)
            out.append(masked / masked.sum())
        with np.errstate(divide="ignore"):
            found = np.log(out)
        return found[:, :-1], found[:, -1]

    def covers_of(self, data):
        """Every valid sequence that covers the bytes, and its probability."""
        if not data:
            return [([0], 1.0)]
        found, open_ = [], [([0], b"", 1.0)]
        while open_:
            ids, done, p = open_.pop()
            tokens, _ = self.next_tokens([ids])
            for token in np.flatnonzero(np.isfinite(tokens[0])).tolist():
                more = done + self.token_bytes[token]
                q = p * np.exp(tokens[0, token])
                if more.startswith(data):
                    found.append(([*ids, token], q))
                elif data.startswith(more):
                    open_.append(([*ids, token], more, q))
        return found

    def probability(self, data):
        """P(a text begins with the bytes)."""
        return sum(p for _, p in self.covers_of(data))

    def whole(self, data):
        """P(a text is the bytes)."""
        return sum(
            p * np.exp(self.next_tokens([ids])[1][0]) for ids, p in self.covers_of(data) if self.exact(ids, data)
        )

    def exact(self, ids, data):
        return b"".join(self.token_bytes[i] for i in ids) == data

    def start(self, prompts, *, special=False):
        return ToyState(self, [bytes_of(prompt) for prompt in prompts])


class ToyState:
    def __init__(self, model, texts):
        self.model, self.texts = model, texts

    @property
    def size(self):
        return len(self.texts)

    @property
    def prefix_logprob(self):
        return np.log([self.model.probability(text) for text in self.texts])

    def log_probs(self):
        out = np.zeros((self.size, SYMBOLS))
        for row, text in enumerate(self.texts):
            for byte in b"abc":
                out[row, byte] = self.model.probability(text + bytes([byte]))
            out[row, STOP] = self.model.whole(text)
        with np.errstate(divide="ignore"):
            return np.log(out / out.sum(axis=1, keepdims=True))

    def advance(self, symbols):
        self.texts = [text + bytes([symbol]) for text, symbol in zip(self.texts, symbols, strict=True)]

    def fork(self, rows):
        return ToyState(self.model, [self.texts[row] for row in rows])

    def covers(self, row):
        text = self.texts[row]
        found = self.model.covers_of(text)
        bytes_ = [b"".join(self.model.token_bytes[i] for i in ids) for ids, _ in found]
        log_probs = np.log([p for _, p in found])
        covers = [Cover(ids, data[len(text) :]) for (ids, _), data in zip(found, bytes_, strict=True)]
        return covers, log_probs - np.logaddexp.reduce(log_probs)


@pytest.fixture(scope="session")
def toy():
    """A model of seven tokens."""
    return ToyTokens(0)


TEXT = "the reader reads the red thread; the thread's end isn't read   here.\nthere are 1234 threads\n\nto read"


def tiny(seed, size):
    """A Llama of one layer whose weights say something, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer.from_buffer(train_bpe([TEXT] * 3, BPEConfig(vocabulary_size=size)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # random weights say next to nothing: their logits lie within 0.1
        if parameter.ndim == 2:
            parameter.data.mul_(5.0)
    return model, tokenizer


@pytest.fixture(scope="session")
def tiny_models():
    """Two causal models of transformers with different vocabularies, and their tokenizers."""
    return [tiny(0, 290), tiny(1, 262)]


@pytest.fixture(scope="session")
def byte_models(tiny_models):
    """The same as byte-level models."""
    from penstock.tokenization.bytelevel.model import ByteModel

    return [ByteModel(model, tokenizer) for model, tokenizer in tiny_models]

"""A base tokenizer as byte strings: what every id stands for, and the ids that spell any byte string.

    base = BaseVocabulary.load("tokenizer.json")
    base.tokens[262]                              # b' the'
    base.spell([b" the", b"\\xe4\\xbd"])            # ids of each, as the tokenizer would cut them

Two families are read. Byte-level BPE writes a byte as one character of a fixed alphabet (Radford et al. 2019).
SentencePiece (BPE or Unigram, Kudo and Richardson 2018) writes a space as ``▁``, which is taken as a space here, and
may have tokens ``<0xNN>`` for single bytes. So the bytes of a SentencePiece text begin with the space that the
tokenizer puts in front. Special tokens and the unknown token have no bytes. WordPiece and word-level vocabularies are
refused: their tokens do not say where a space was.

Price: 0.2 s and 100 bytes a token to read a vocabulary of 64k.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.loading import Loaded, load

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = NDArray[np.int64]

_SPACE = "▁"
_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that GPT-2 writes as themselves


def byte_alphabet() -> dict[str, int]:
    """The character of every byte in a byte-level vocabulary."""
    others = [byte for byte in range(256) if byte not in set(_BYTES)]
    return {chr(byte): byte for byte in _BYTES} | {chr(256 + i): byte for i, byte in enumerate(others)}


class BaseVocabulary:
    """The tokens of a tokenizer as bytes.

    Attributes:
        loaded: the tokenizer.
        tokens: (V,) bytes of every id; None for special tokens, the unknown token and ids without a token.
        sizes: (V,) int64, their lengths in bytes; 0 for None.
        ids: the id of a byte string; the lowest of several.
        unknown: id of the unknown token; None where there is none.

    Raises:
        ConfigError: a model that is neither byte-level BPE nor SentencePiece.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        model = loaded.state["model"]
        if loaded.kind not in ("BPE", "Unigram"):
            raise ConfigError(
                f"tokenizer {loaded.path}: got a {loaded.kind} model, allowed byte-level BPE and SentencePiece (BPE or "
                "Unigram), whose tokens say which bytes they stand for"
            )
        if loaded.kind == "BPE":
            loaded.require_bpe("dynamic tokenization")
        pieces = model["vocab"]
        named = pieces.items() if isinstance(pieces, dict) else ((piece, i) for i, (piece, _) in enumerate(pieces))
        self.tokens: list[bytes | None] = [None] * loaded.vocabulary
        alphabet = byte_alphabet() if loaded.byte_level else None
        for token, number in named:
            self.tokens[number] = _bytes_of(token, alphabet)
        for added in loaded.state.get("added_tokens") or ():
            self.tokens[added["id"]] = None if added["special"] else added["content"].encode() or None
        self.unknown = self._unknown()
        if self.unknown is not None:
            self.tokens[self.unknown] = None
        self.sizes: Ints = np.array([len(token or b"") for token in self.tokens], np.int64)
        self._data = np.frombuffer(b"".join(token or b"" for token in self.tokens), np.uint8)
        self._starts: Ints = np.cumsum(self.sizes) - self.sizes
        self.ids: dict[bytes, int] = {}
        for number, known in enumerate(self.tokens):
            if known:
                self.ids.setdefault(known, number)

    @classmethod
    def load(cls, path: str) -> BaseVocabulary:
        """From a ``tokenizer.json`` or a folder that has one. Raises InputError when it cannot be read."""
        return cls(load(path))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, texts: Sequence[str], *, markers: bool = False, parse_special: bool = False) -> tuple[Ints, Ints]:
        """Ids of all texts (B,) and where each text begins (n + 1,).

        Args:
            markers: add what the tokenizer puts around a text, such as ``<s>``.
            parse_special: text that spells a special token becomes that token; else it is ordinary text.
        """
        tokenizer = self._parsing if parse_special else self.loaded.tokenizer
        rows = [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=markers)]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1])), offsets

    def join(self, ids: Sequence[int] | Ints) -> bytes:
        """The bytes of ids one after another; special tokens have none."""
        numbers = np.asarray(ids, np.int64)
        sizes = self.sizes[numbers]
        first = np.cumsum(sizes) - sizes
        return self._data[np.repeat(self._starts[numbers] - first, sizes) + np.arange(int(sizes.sum()))].tobytes()

    def spell(self, tokens: Sequence[bytes]) -> tuple[Ints, Ints]:
        """The canonical ids of byte strings, flat (P,), and where each string begins (n + 1,).

        A string is cut as the tokenizer cuts it where it stands alone and without the space that some put in front.
        Bytes that are no UTF-8 become the tokens of their byte alphabet, merged where the vocabulary is byte-level. A
        string that has no spelling (no such byte in the vocabulary) has no ids.
        """
        texts, places = [], []
        rows: list[list[int]] = [[] for _ in tokens]
        for place, token in enumerate(tokens):
            try:
                texts.append(token.decode())
                places.append(place)
            except UnicodeDecodeError:
                rows[place] = self._spell_broken(token)
        encodings = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        for place, encoding in zip(places, encodings, strict=True):
            rows[place] = encoding.ids
            if self.join(encoding.ids) != tokens[place]:
                rows[place] = self._spell_broken(tokens[place])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1])), offsets

    def pieces(self, text: str) -> list[tuple[int, int]]:
        """The pre-tokenizer's pieces of a text, as ranges of characters.

        Raises:
            ConfigError: the tokenizer has no pre-tokenizer.
        """
        cutter = self.loaded.tokenizer.pre_tokenizer
        if cutter is None:
            raise ConfigError(
                f"boundary: got 'pretoken', but {self.loaded.path} has no pre-tokenizer; take 'word', which needs none"
            )
        return [span for _, span in cutter.pre_tokenize_str(text)]

    def _unknown(self) -> int | None:
        model = self.loaded.state["model"]
        token = model.get("unk_token")
        found = model.get("unk_id") if self.loaded.kind == "Unigram" else model["vocab"].get(token)
        return None if found is None else int(found)

    def _spell_broken(self, token: bytes) -> list[int]:
        """Ids of bytes that no text has."""
        if self.loaded.byte_level:
            alphabet = {byte: letter for letter, byte in byte_alphabet().items()}
            found = [piece.id for piece in self._plain.model.tokenize("".join(alphabet[byte] for byte in token))]
        else:
            found = [self.ids[bytes([byte])] for byte in token if bytes([byte]) in self.ids]
        return found if self.join(found) == token else []

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer without normalisation, prefix space and markers: it sees byte strings as they are."""
        from tokenizers import Tokenizer

        state = json.loads(self.loaded.content)
        # of what changes a text only the spaces' own character stays
        outer = state.get("normalizer") or {}
        parts = outer.get("normalizers", [outer])
        state["normalizer"] = next((one for one in parts if one.get("content") == _SPACE and "pattern" in one), None)
        _without_prefix(state.get("pre_tokenizer"))
        state["post_processor"] = None
        made = Tokenizer.from_str(json.dumps(state))
        made.encode_special_tokens = True
        made.no_truncation()
        made.no_padding()
        return made

    @cached_property
    def _parsing(self) -> Tokenizer:
        from tokenizers import Tokenizer

        made = Tokenizer.from_buffer(self.loaded.content)
        made.no_truncation()
        made.no_padding()
        return made


def require_ids(ids: Ints, vocabulary: int) -> None:
    """Raise InputError when an id is none of the vocabulary's."""
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise InputError(
            f"ids: got {int(ids.min())} to {int(ids.max())}, allowed 0 to {vocabulary - 1}, those of the base tokenizer"
        )


def _bytes_of(token: str, alphabet: dict[str, int] | None) -> bytes | None:
    if alphabet is not None:
        try:
            return bytes(alphabet[letter] for letter in token) or None
        except KeyError:
            return None  # a control token that stands in the vocabulary
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_SPACE, " ").encode() or None


def _without_prefix(part: Any) -> None:
    """Switch off every prefix space in the state of a pre-tokenizer, in place."""
    if not part:
        return
    for inner in part.get("pretokenizers") or ():
        _without_prefix(inner)
    if "add_prefix_space" in part:
        part["add_prefix_space"] = False
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"

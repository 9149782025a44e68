"""Take tokens that a sample does not use out of a BPE tokenizer, and leave it sound.

Kept are the tokens in use, all bytes, all added tokens, and of every kept token the tokens it is merged from, down to
single symbols. A merge stays when its parts and its result do. Then

* every text still has an encoding that decodes to it, since all bytes are there;
* a piece of text (what the pre-tokenizer gives out) all of whose tokens are kept is encoded as before: each merge that
  made it belongs to a kept token, and no merge was added that could come first;
* so every kept token that text could reach is still reached.

``old_ids`` says which row of an embedding table each new id had: ``embedding[old_ids]`` are the rows of the new one.
Ids keep their order.

Price: one pass of encoding over the sample; the rest is linear in the vocabulary (2 s for 128k tokens).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.loading import Loaded, of_bytes

_WHAT = "prune"


@dataclass(frozen=True)
class Pruned:
    """A smaller tokenizer.

    Attributes:
        content: of its ``tokenizer.json``.
        old_ids: (new vocabulary,) int64; the id that each token had before.
        kept_for: why tokens were kept: ``used``, ``alphabet``, ``added``, ``parts`` (of other kept ones), to a number.
        used: tokens that the sample used at all.
        tokens: of the sample, under the tokenizer as it was.
    """

    content: bytes
    old_ids: NDArray[np.int64]
    kept_for: dict[str, int]
    used: int
    tokens: int


def prune(loaded: Loaded, texts: Iterable[str], *, min_count: int = 1, size: int | None = None) -> Pruned:
    """``loaded`` without the tokens that ``texts`` do not use.

    Args:
        texts: the sample; what it does not show will be spelt by smaller tokens.
        min_count: tokens used this often are kept, all of them when ``size`` is None.
        size: tokens to keep at most, the most used first, ties by the lower id; the parts of kept ones count.

    Raises:
        ConfigError: no BPE, no bytes in the vocabulary, or a size that its bytes and added tokens alone pass.
        DatasetError: no text.
    """
    loaded.require_bpe(_WHAT)
    if min_count < 1:
        raise ConfigError(f"min_count: got {min_count}, allowed 1 or more; 1 drops what is never used")
    counts, documents = _uses(loaded, texts)
    if not documents:
        raise DatasetError("prune: got a sample with no text, at least one is needed; name files that have some")
    tree = _Parts(loaded)
    alphabet = _alphabet(loaded)
    added = set(loaded.special_ids) | _unknown(loaded)
    kept = alphabet | added
    if size is not None and size < len(kept):
        raise ConfigError(
            f"size: got {size}, allowed {len(kept)} (bytes and added tokens) or more; ask for more tokens"
        )
    wanted = [int(i) for i in np.lexsort((np.arange(len(counts)), -counts)) if counts[i] >= min_count]
    used = set()
    for token in wanted:
        family = tree.of(token)
        if size is not None and len(kept | family) > size:
            continue
        used.add(token)
        kept |= family
    old_ids = np.array(sorted(kept), np.int64)
    kept_for = {"used": len(used), "alphabet": len(alphabet - used), "added": len(added - used - alphabet)}
    kept_for["parts"] = len(kept) - sum(kept_for.values())
    content = json.dumps(_rewritten(loaded, old_ids), ensure_ascii=False).encode()
    of_bytes(content, "pruned")  # a file that cannot be loaded must not be written
    return Pruned(content, old_ids, kept_for, int(np.count_nonzero(counts)), int(counts.sum()))


def _uses(loaded: Loaded, texts: Iterable[str]) -> tuple[NDArray[np.int64], int]:
    """How often each id occurs (ids,), and in how many documents they were looked for."""
    counts = np.zeros(1 + max(_ids(loaded).values()), np.int64)
    documents = 0
    for ids, lengths in loaded.encode(texts):
        counts += np.bincount(ids, minlength=len(counts))
        documents += len(lengths)
    return counts, documents


def _ids(loaded: Loaded) -> dict[str, int]:
    return dict(loaded.tokenizer.get_vocab(with_added_tokens=True))


def _alphabet(loaded: Loaded) -> set[int]:
    """Ids of what spells every byte, and where the vocabulary is not byte-level of all tokens of one character."""
    from tokenizers import pre_tokenizers

    vocabulary: dict[str, int] = loaded.state["model"]["vocab"]
    if loaded.byte_level:
        spelt = sorted(pre_tokenizers.ByteLevel.alphabet())
        more: set[int] = set()
    else:
        spelt = [f"<0x{byte:02X}>" for byte in range(256)] if loaded.state["model"].get("byte_fallback") else [""]
        # a character that lost its token would be spelt by bytes, and the tokens merged from it were out of reach
        more = {number for token, number in vocabulary.items() if len(token) == 1}
    missing = [letter for letter in spelt if letter not in vocabulary]
    if missing:
        raise ConfigError(
            f"prune: got a vocabulary in {loaded.path} that cannot spell every byte ({len(missing)} are missing), "
            "allowed byte-level BPE or BPE with byte fallback; without them a text could lose its characters"
        )
    return {vocabulary[letter] for letter in spelt} | more


def _unknown(loaded: Loaded) -> set[int]:
    model = loaded.state["model"]
    token = model.get("unk_token")
    return {model["vocab"][token]} if token in model["vocab"] else set()


class _Parts:
    """The tokens that a token is merged from, itself among them."""

    def __init__(self, loaded: Loaded) -> None:
        self._vocabulary: dict[str, int] = loaded.state["model"]["vocab"]
        self._names = {number: token for token, number in self._vocabulary.items()}
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        self._ranks: dict[tuple[str, str], int] = {}
        for rank, pair in enumerate(loaded.merges()):
            self._pairs.setdefault("".join(pair), []).append(pair)
            self._ranks.setdefault(pair, rank)

    def of(self, token: int) -> set[int]:
        name = self._names.get(token)
        found = {token}
        if name is None:
            return found
        stack = [name]
        while stack:
            whole = stack.pop()
            pair = self._last(whole)
            if pair is not None:
                found.update(self._vocabulary[part] for part in pair)
                stack.extend(pair)
        return found

    def _last(self, name: str) -> tuple[str, str] | None:
        """The merge that completes a token; None for a symbol, or one that merging does not reach."""
        pairs = self._pairs.get(name)
        if pairs is None:
            return None
        return pairs[0] if len(pairs) == 1 else last_merge(name, self._ranks)


def last_merge(name: str, ranks: dict[tuple[str, str], int]) -> tuple[str, str] | None:
    """The merge by which BPE completes a token out of its characters; None when it does not get there.

    Files converted from SentencePiece list every pair that makes a token, and only one of them is the one.
    """
    parts = list(name)
    while len(parts) > 2:
        best = min(
            ((ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks),
            default=None,
        )
        if best is None:
            return None
        parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
    pair = (parts[0], parts[1]) if len(parts) == 2 else None
    return pair if pair in ranks else None


def _rewritten(loaded: Loaded, old_ids: NDArray[np.int64]) -> dict[str, Any]:
    """The state with the kept tokens alone, under their new ids."""
    new = {int(old): i for i, old in enumerate(old_ids)}
    state: dict[str, Any] = json.loads(loaded.content)
    model = state["model"]
    vocabulary = {token: new[number] for token, number in model["vocab"].items() if number in new}
    model["merges"] = [
        [left, right]
        for left, right in loaded.merges()
        if left in vocabulary and right in vocabulary and left + right in vocabulary
    ]
    model["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    for token in state.get("added_tokens") or ():
        token["id"] = new[token["id"]]
    if state.get("padding"):
        state["padding"]["pad_id"] = new[state["padding"]["pad_id"]]
    for processor in _processors(state.get("post_processor")):
        for special in (processor.get("special_tokens") or {}).values():
            special["ids"] = [new[old] for old in special["ids"]]
        for key in ("sep", "cls"):
            if key in processor:
                processor[key][1] = new[processor[key][1]]
    return state


def _processors(found: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if found is not None:
        yield from found["processors"] if found["type"] == "Sequence" else [found]

"""A network that gives embeddings to tokens from the base tokens that spell them.

    rows = HypernetRows.load("runs/hypernet", base, model)     # a provider, as in ``embeddings``
    rows.rows([b" tokenization"])                             # (1, d)

Zero-shot tokenizer transfer (Minixhofer, Ponti and Vulić 2024, arXiv:2405.07883). A token is spelled in base tokens;
their rows (input and, where they differ, output rows side by side) are standardised by dimension, go through a dense
layer and a projector block ``LN(x + gelu(W2 gelu(W1 x)))`` and a small bidirectional transformer; its first place
gives the token's rows by a head each, scaled to the mean and standard deviation of the source rows by dimension.
Tokens do not see each other, so a token's row depends on its bytes alone.

The network reads ``pieces`` base tokens. A longer spelling is not cut, which would give tokens of equal beginnings
equal rows: it gets the composed row of ``CompositionRows``, as a token without a spelling does. Tokens of the base
vocabulary keep theirs.

Price: a forward pass of the network for each new token; a cache keeps the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.dynamic.embeddings import CompositionRows, rows_digest, source_rows
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary, Ints

WEIGHTS, ABOUT = "hypernet.safetensors", "hypernet.json"


@dataclass(frozen=True, kw_only=True)
class HypernetShape:
    """Sizes of the network.

    Attributes:
        hidden: width of the transformer.
        layers, heads, feed_forward: of the transformer.
        pieces: base tokens of a spelling that are read.
    """

    hidden: int = 512
    layers: int = 3
    heads: int = 8
    feed_forward: int = 1024
    pieces: int = 7

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.heads, self.feed_forward, self.pieces) < 1 or self.hidden % self.heads:
            raise ConfigError(f"hypernet: got {self}, allowed numbers >= 1 and a hidden width that the heads divide")


class Hypernet(nn.Module):
    """Spellings in base tokens to rows.

    Args:
        shape: sizes.
        source_in: (V, d) input rows of the model.
        source_out: (V, d) output rows; None where they are the input rows, and then there is one head.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: HypernetShape, source_in: torch.Tensor, source_out: torch.Tensor | None) -> None:
        super().__init__()
        self.shape = shape
        self.width = source_in.shape[1]
        self._source = _side_by_side(source_in, source_out)
        self.register_buffer("mean", self._source.mean(0))
        self.register_buffer("deviation", self._source.std(0).clamp_min(1e-6))
        width = self._source.shape[1]
        self.dense = nn.Linear(width, shape.hidden)
        self.first, self.second = nn.Linear(shape.hidden, shape.hidden), nn.Linear(shape.hidden, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden)
        self.places = nn.Embedding(shape.pieces, shape.hidden)
        layer = nn.TransformerEncoderLayer(
            shape.hidden, shape.heads, shape.feed_forward, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(shape.hidden, self.width) for _ in range(width // self.width))
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """Rows of n tokens: [(n, d) input] or [(n, d) input, (n, d) output].

        Args:
            ids: (n, pieces) base ids.
            mask: (n, pieces) bool, True where a piece is; the first always is.
        """
        x = self.dense((self._source[ids] - self.mean) / self.deviation)
        x = self.norm(x + functional.gelu(self.second(functional.gelu(self.first(x)))))
        x = self.encoder(x + self.places.weight[: ids.shape[1]], src_key_padding_mask=~mask)[:, 0]
        means, deviations = self.mean.split(self.width), self.deviation.split(self.width)
        return [head(x) * deviation + mean for head, mean, deviation in zip(self.heads, means, deviations, strict=True)]


def _side_by_side(source_in: torch.Tensor, source_out: torch.Tensor | None) -> torch.Tensor:
    rows = [source_in.detach().float()] + ([] if source_out is None else [source_out.detach().float()])
    return torch.cat(rows, dim=1)


def spellings(
    base: BaseVocabulary, tokens: Sequence[bytes], pieces: int, rows: int
) -> tuple[Ints, np.ndarray, np.ndarray]:
    """What the network reads: ids (n, pieces), mask (n, pieces), and which tokens it can read (n,).

    It can read a token that has a spelling of at most ``pieces`` base tokens, all below ``rows``.
    """
    flat, offsets = base.spell(tokens)
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(len(tokens)), counts)
    within = np.arange(len(flat)) - np.repeat(offsets[:-1], counts)
    readable = (counts > 0) & (counts <= pieces)
    readable[owner[flat >= rows]] = False
    ids = np.zeros((len(tokens), pieces), np.int64)
    kept = readable[owner]
    ids[owner[kept], within[kept]] = flat[kept]
    return ids, np.arange(pieces) < np.where(readable, counts, 0)[:, None], readable


class HypernetRows:
    """A provider of rows by a trained network.

    Args:
        base: the base tokenizer.
        source: (V, d) the rows of the side that is asked for.
        network: the network.
        side: ``input`` or ``output``.

    Raises:
        ConfigError: another side.
    """

    def __init__(self, base: BaseVocabulary, source: torch.Tensor, network: Hypernet, side: str = "input") -> None:
        if side not in ("input", "output"):
            raise ConfigError(f"side: got {side!r}, allowed input, output")
        self._base, self._source, self._network = base, source.detach(), network.eval()
        self._head = min(int(side == "output"), len(network.heads) - 1)
        weighting, match = ("bytes", True) if side == "output" else ("uniform", False)
        self._composed = CompositionRows(base, source, weighting=weighting, match_norm=match)  # type: ignore[arg-type]
        digest = rows_digest(torch.cat([p.detach().float().flatten() for p in network.parameters()]))
        self._key = f"hypernet:{side}:{digest}:{self._composed.key}"

    @classmethod
    def load(cls, folder: str | Path, base: BaseVocabulary, model: Any, side: str = "input") -> HypernetRows:
        """The provider of a folder that ``train_hypernet`` wrote, for the model that it was trained for.

        Raises:
            DatasetError: it is not complete, or was trained on another model's rows.
        """
        source_in, source_out = model_rows(model)
        network = load_hypernet(folder, source_in, source_out)
        return cls(base, source_in if side == "input" or source_out is None else source_out, network, side)

    @property
    def key(self) -> str:
        return self._key

    @property
    def width(self) -> int:
        return self._network.width

    def rows(self, tokens: Sequence[bytes]) -> torch.Tensor:
        """(n, d) rows of byte strings."""
        out = self._composed.rows(tokens)
        new = [i for i, token in enumerate(tokens) if token not in self._base.ids]
        ids, mask, readable = spellings(
            self._base, [tokens[i] for i in new], self._network.shape.pieces, len(self._source)
        )
        if readable.any():
            device = self._network.mean.device
            with torch.no_grad():
                made = self._network(
                    torch.from_numpy(ids[readable]).to(device), torch.from_numpy(mask[readable]).to(device)
                )[self._head]
            out[torch.from_numpy(np.array(new)[readable]).to(out.device)] = made.to(out)
        return out


def model_rows(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(V, d) input rows and output rows of a model; None for output rows that are the input rows."""
    source_in = source_rows(model.get_input_embeddings())
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return source_in, None
    return source_in, head.weight.detach()


def save_hypernet(folder: Path, network: Hypernet, source_in: torch.Tensor, source_out: torch.Tensor | None) -> None:
    """Write weights, then what they are for."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)
    about = {"shape": asdict(network.shape), "source": _digest(source_in, source_out)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def load_hypernet(folder: str | Path, source_in: torch.Tensor, source_out: torch.Tensor | None) -> Hypernet:
    """The network of a folder. Raises DatasetError when it is not complete, or is for other rows."""
    from safetensors.torch import load_file

    place = Path(folder)
    try:
        about = json.loads((place / ABOUT).read_text())
        network = Hypernet(HypernetShape(**about["shape"]), source_in, source_out)
        state = load_file(place / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"hypernet {place}: cannot be read ({error}); train it to its end first") from error
    if about["source"] != _digest(source_in, source_out):
        raise DatasetError(
            f"hypernet {place}: trained for another model's rows, or this model was trained on; train it anew"
        )
    network.load_state_dict(state)
    return network.to(source_in.device).eval()


def _digest(source_in: torch.Tensor, source_out: torch.Tensor | None) -> str:
    return rows_digest(_side_by_side(source_in, source_out))

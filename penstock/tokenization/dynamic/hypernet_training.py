"""Train a hypernetwork for a causal language model.

    config = HypernetConfig(model="runs/m/model-1", texts=("data/*.jsonl",), output="runs/hypernet")
    result = train_hypernet(config, print)

Two stages (Minixhofer, Ponti and Vulić 2024, arXiv:2405.07883):

1. *identity*: the network learns to give base tokens their own rows (mean squared error over the source's variance);
2. *language*: every step draws a tokenizer that fits the texts seen last (``tokenizer_sampling``), cuts a batch with
   it, and takes the loss of the frozen model that reads and predicts in the network's rows, plus ``lexical_weight``
   times the identity loss over drawn tokens that the base vocabulary has.

The softmax is over the batch's tokens and ``negatives`` others of the drawn tokenizer, whose weight makes the sum an
unbiased one. Only the network is trained. A rerun goes on from the last checkpoint in the output folder, and gives
what an uninterrupted run would have; with other settings it is refused.

Price: a step costs the model's forward and backward pass and a draw (substrings of ``sampler.queue`` texts are sorted).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import derive, stream
from penstock.tokenization.dynamic.embeddings import CompositionRows, rows_digest
from penstock.tokenization.dynamic.hypernet import Hypernet, HypernetShape, model_rows, save_hypernet, spellings
from penstock.tokenization.dynamic.tokenizer_sampling import SamplerConfig, TokenizerSampler
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary

logger = logging.getLogger(__name__)

_HELD_OUT = 0.05  # of the texts, at most as many as a batch
_CHARACTERS_A_TOKEN = 4  # a text is cut into stretches of so many characters for each token of a row


@dataclass(frozen=True, kw_only=True)
class HypernetConfig:
    """What to train a hypernetwork with.

    Attributes:
        model: local folder of a causal language model with its tokenizer, or a run of penstock with one.
        texts: datasets, runs, files or patterns to read texts from.
        output: folder of checkpoints and of the result.
        text_bytes: bytes of text that are sampled; None takes all.
        identity_steps, steps: of the two stages.
        batch, length: texts of a step and tokens of each at most.
        identity_batch: base tokens of an identity step.
        negatives: tokens besides a batch's own in the softmax.
        identity_rate, rate: learning rates of the two stages; the second falls to zero along a cosine.
        clip: largest norm of a gradient.
        lexical_weight: of the identity loss in the second stage.
        shape, sampler: of the network and of the tokenizers.
        checkpoint_every: steps.
        seed: of weights, batches and tokenizers.
        device: of torch; ``auto`` is CUDA where there is one.
    """

    model: str
    texts: tuple[str, ...]
    output: str
    text_bytes: int | None = 256_000_000
    identity_steps: int = 10_000
    steps: int = 200_000
    batch: int = 128
    length: int = 128
    identity_batch: int = 1024
    negatives: int = 4096
    identity_rate: float = 3e-4
    rate: float = 6e-5
    clip: float = 0.1
    lexical_weight: float = 0.5
    shape: HypernetShape = field(default_factory=HypernetShape)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    checkpoint_every: int = 500
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {"batch": 1, "length": 2, "identity_batch": 1, "checkpoint_every": 1, "identity_steps": 0, "steps": 0}
        for name, low in {**least, "negatives": 0}.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= {low}")
        for name in ("identity_rate", "rate", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed > 0")
        if self.lexical_weight < 0:
            raise ConfigError(f"lexical_weight: got {self.lexical_weight}, allowed >= 0")
        if not self.texts or not self.output:
            raise ConfigError("texts, output: got nothing, allowed paths of texts and a folder to write to")


@dataclass(frozen=True, kw_only=True)
class HypernetProgress:
    """A step that was done: its stage (``identity`` or ``language``), its losses, and seconds since this run began."""

    stage: str
    step: int
    steps: int
    loss: float
    lexical: float
    seconds: float

    def __str__(self) -> str:
        lexical = f", lexical {self.lexical:.4f}" if self.stage == "language" else ""
        return f"{self.stage} {self.step}/{self.steps}: loss {self.loss:.4f}{lexical}, {self.seconds:.0f} s"


@dataclass(frozen=True, kw_only=True)
class HypernetResult:
    """The trained network on held-out texts, cut by a tokenizer without noise that fits them.

    Attributes:
        folder: where the network is.
        nats_per_byte: of the model in the network's rows, over the bytes of all tokens but the first of a text.
        composed_nats_per_byte: in composed rows (FVT), without training.
        base_nats_per_byte: of the model with its own tokenizer and rows.
        tokens, base_tokens: of the held-out texts, by the drawn and by the model's own tokenizer.
    """

    folder: str
    nats_per_byte: float
    composed_nats_per_byte: float
    base_nats_per_byte: float
    tokens: int
    base_tokens: int


def train_hypernet(
    config: HypernetConfig, progress: Callable[[HypernetProgress], None] | None = None
) -> HypernetResult:
    """Train, or go on training, and measure the result. ``progress`` is told of every checkpoint and of the last step.

    Raises:
        ConfigError: the model is none that can be read, or the folder holds a run with other settings.
        DatasetError: there are too few texts.
    """
    from penstock.scoring.model import load_causal_lm, resolve

    model, _ = load_causal_lm(config.model, config.device)
    base = BaseVocabulary.load(str(resolve(config.model)))
    taught, held_out = _texts(config)
    run = _Run(config, model, base, taught)
    run.train(progress)
    save_hypernet(Path(config.output), run.network, run.source_in, run.source_out)
    return run.measure(held_out)


def _texts(config: HypernetConfig) -> tuple[list[str], list[str]]:
    """Stretches of text to learn from, and to measure on."""
    from penstock.tokenization.sampling import Texts, sample

    taken = sample(Texts(paths=config.texts), budget=config.text_bytes, seed=config.seed)
    size = config.length * _CHARACTERS_A_TOKEN
    out = [text[i : i + size] for text in taken.texts() for i in range(0, len(text), size)]
    out = [text for text in out if text.strip()]
    held = min(config.batch, max(1, int(_HELD_OUT * len(out))))
    if len(out) < 2 * held:
        raise DatasetError(f"hypernet: got {len(out)} stretches of text, allowed 2 at least; give more text")
    order = stream(config.seed, "held out").permutation(len(out)).tolist()
    return [out[i] for i in sorted(order[held:])], [out[i] for i in order[:held]]


def lifted(logits: torch.Tensor, own: int, stand_for: int) -> torch.Tensor:
    """Logits (n, k) of ``own`` tokens and some of ``stand_for`` others, which are raised by ln(stand_for / drawn).

    So the sum of exponentials is, in the mean over draws, the one over all tokens.
    """
    drawn = logits.shape[1] - own
    if not drawn:
        return logits
    return torch.cat([logits[:, :own], logits[:, own:] + float(np.log(stand_for / drawn))], dim=1)


class _Run:
    """The state of a training run."""

    def __init__(self, config: HypernetConfig, model: Any, base: BaseVocabulary, texts: list[str]) -> None:
        self.config, self.model, self.base, self._texts = config, model, base, texts
        self.source_in, self.source_out = model_rows(model)
        self._device = self.source_in.device
        torch.manual_seed(derive(config.seed, "hypernet"))
        self.network = Hypernet(config.shape, self.source_in, self.source_out).to(self._device)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.identity_rate, weight_decay=0.01)
        self._sampler = TokenizerSampler(config.sampler, config.seed)
        self._variance = torch.cat([self.source_in.float().var(0), (self._other().float().var(0))]).mean()
        known = list(base.ids)
        ids, mask, readable = spellings(base, known, config.shape.pieces, len(self.source_in))
        self._known = ids[readable], mask[readable], np.array([base.ids[token] for token in known])[readable]
        self._composed = [
            CompositionRows(base, self.source_in),
            CompositionRows(base, self._other(), weighting="bytes", match_norm=True),
        ]

    def train(self, progress: Callable[[HypernetProgress], None] | None) -> None:
        """Both stages, from the last checkpoint on."""
        config = self.config
        total = config.identity_steps + config.steps
        first = self._restore()
        self._refill(first)
        started = time.monotonic()
        self.network.train()
        for step in range(first, total):
            language = step >= config.identity_steps
            rate = config.identity_rate
            if language:
                rate = config.rate * 0.5 * (1 + np.cos(np.pi * (step - config.identity_steps) / config.steps))
            for group in self._optimizer.param_groups:
                group["lr"] = float(rate)
            loss, lexical = self._language(step) if language else self._identity(step)
            (loss + config.lexical_weight * lexical).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
                self._keep(step + 1)
                if progress is not None:
                    done, of = (
                        (step + 1 - config.identity_steps, config.steps)
                        if language
                        else (step + 1, config.identity_steps)
                    )
                    progress(
                        HypernetProgress(
                            stage="language" if language else "identity",
                            step=done,
                            steps=of,
                            loss=float(loss.detach()),
                            lexical=float(lexical.detach()),
                            seconds=time.monotonic() - started,
                        )
                    )
        self.network.eval()

    def measure(self, texts: list[str]) -> HypernetResult:
        """Nats per byte of held-out texts."""
        sampler = TokenizerSampler(SamplerConfig(size=self.config.sampler.size, noise=0.0), self.config.seed)
        sampler.push(texts)
        drawn = sampler.draw(0)
        ids, offsets = drawn.encode(texts)
        sizes = np.array([len(token) for token in drawn.tokens], np.int64)
        base_ids, base_offsets = self.base.encode(texts)
        with torch.no_grad():
            network = self._rows(drawn.tokens)
            composed = [provider.rows(drawn.tokens).float() for provider in self._composed]
            source = [self.source_in.float(), self._other().float()]
            found = [self._nats_per_byte(rows, ids, offsets, sizes) for rows in (network, composed)]
            found.append(self._nats_per_byte(source, base_ids, base_offsets, self.base.sizes))
        return HypernetResult(
            folder=self.config.output,
            nats_per_byte=found[0],
            composed_nats_per_byte=found[1],
            base_nats_per_byte=found[2],
            tokens=len(ids),
            base_tokens=len(base_ids),
        )

    def _other(self) -> torch.Tensor:
        """Rows of the output side."""
        return self.source_in if self.source_out is None else self.source_out

    def _identity(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask, numbers = self._known
        pick = stream(self.config.seed, "identity", step).integers(0, len(numbers), self.config.identity_batch)
        made = self.network(self._tensor(ids[pick]), self._tensor(mask[pick]))
        loss = self._distance(made, self._tensor(numbers[pick]))
        return loss, torch.zeros_like(loss)

    def _distance(self, made: Sequence[torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        """Mean squared error to the source rows of base ids, over the source's variance."""
        sides = zip(made, (self.source_in, self._other()), strict=False)
        return (
            torch.stack([functional.mse_loss(rows, source[numbers].float()) for rows, source in sides]).mean()
            / self._variance
        )

    def _language(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        texts = self._batch(step)
        self._sampler.push(texts)
        drawn = self._sampler.draw(step)
        ids, offsets = drawn.encode(texts)
        own, local = np.unique(ids, return_inverse=True)
        others = np.setdiff1d(np.arange(len(drawn.tokens)), own)
        rng = stream(self.config.seed, "negatives", step)
        taken = others[np.sort(rng.permutation(len(others))[: self.config.negatives])]
        tokens = [drawn.tokens[i] for i in np.concatenate([own, taken]).tolist()]
        rows = self._rows(tokens)
        nats, count = self._losses(rows, local, offsets, stand_for=len(others))
        shared = [(i, self.base.ids[token]) for i, token in enumerate(tokens) if token in self.base.ids]
        if not shared:
            return nats / count, torch.zeros_like(nats)
        place, numbers = (self._tensor(np.array(column)) for column in zip(*shared, strict=True))
        return nats / count, self._distance([side[place] for side in rows[: len(self.network.heads)]], numbers)

    def _rows(self, tokens: Sequence[bytes]) -> list[torch.Tensor]:
        """[input, output] rows of tokens: the network's, composed ones where it cannot read the spelling."""
        ids, mask, readable = spellings(self.base, tokens, self.config.shape.pieces, len(self.source_in))
        made = self.network(self._tensor(ids[readable]), self._tensor(mask[readable]))
        where = self._tensor(np.flatnonzero(readable))
        rest = [tokens[i] for i in np.flatnonzero(~readable).tolist()]
        out = []
        for side, composed in enumerate(self._composed):
            rows = torch.zeros((len(tokens), self.network.width), device=self._device)
            rows = rows.index_copy(0, where, made[min(side, len(made) - 1)])
            if rest:
                rows = rows.index_copy(0, self._tensor(np.flatnonzero(~readable)), composed.rows(rest).float())
            out.append(rows)
        return out

    def _losses(
        self, rows: Sequence[torch.Tensor], ids: np.ndarray, offsets: np.ndarray, stand_for: int = 0
    ) -> tuple[torch.Tensor, int]:
        """Summed nats of all tokens but the first of each text, and how many; texts are cut at ``length``."""
        lengths = np.minimum(np.diff(offsets), self.config.length)
        width = max(2, int(lengths.max()))
        place = np.minimum(offsets[:-1, None] + np.arange(width), len(ids) - 1)
        there = np.arange(width) < lengths[:, None]
        grid = self._tensor(np.where(there, ids[place], 0))
        mask = self._tensor(there)
        # padding on the right changes nothing on its left
        hidden = self.model.base_model(
            inputs_embeds=rows[0][grid].to(self.source_in.dtype), attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        kept = mask[:, 1:]
        logits = hidden[:, :-1][kept].float() @ rows[1].T
        if stand_for:
            logits = lifted(logits, int(ids.max()) + 1, stand_for)
        return functional.cross_entropy(logits, grid[:, 1:][kept], reduction="sum"), max(1, int(kept.sum()))

    def _nats_per_byte(
        self, rows: Sequence[torch.Tensor], ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ) -> float:
        """Nats of the predicted tokens over their bytes."""
        nats, size = 0.0, 0
        for row in range(0, len(offsets) - 1, 16):
            bounds = offsets[row : row + 17]
            part = ids[bounds[0] : bounds[-1]]
            nats += float(self._losses(rows, part, bounds - bounds[0])[0])
            for low, high in pairwise(bounds.tolist()):
                size += int(sizes[ids[low + 1 : min(high, low + self.config.length)]].sum())
        return nats / max(size, 1)

    def _batch(self, step: int) -> list[str]:
        """Texts of a step: passes over all of them, each in an order of its own."""
        n, size = len(self._texts), self.config.batch
        first = (step - self.config.identity_steps) * size
        orders: dict[int, np.ndarray] = {}
        out = []
        for number in range(first, first + size):
            if number // n not in orders:
                orders[number // n] = stream(self.config.seed, "pass", number // n).permutation(n)
            out.append(self._texts[orders[number // n][number % n]])
        return out

    def _refill(self, step: int) -> None:
        """The sampler's queue as it was before ``step``."""
        batches = -(-self.config.sampler.queue // self.config.batch) + 1
        for one in range(max(self.config.identity_steps, step - batches), step):
            self._sampler.push(self._batch(one))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    # ---- checkpoints

    @property
    def _settings(self) -> str:
        """What decides the run: settings without the folder, the model's rows and the texts."""
        made_of = {
            name: value for name, value in asdict(self.config).items() if name not in ("output", "checkpoint_every")
        }
        state = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        state.update(rows_digest(self.source_in).encode() + rows_digest(self._other()).encode())
        for text in self._texts:
            state.update(hashlib.sha256(text.encode()).digest())
        return state.hexdigest()

    def _restore(self) -> int:
        """Steps that are done."""
        path = Path(self.config.output) / "checkpoint.pt"
        if not path.exists():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location=self._device)
            if state["settings"] != self._settings:
                raise ConfigError(
                    f"output: {path.parent} holds a run with other settings, texts or another model; give another "
                    "folder, or remove it to begin anew"
                )
            self.network.load_state_dict(state["network"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (OSError, RuntimeError, KeyError) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); remove it to begin anew") from error
        logger.info("hypernet: goes on from step %d of %s", state["step"], path.parent)
        return int(state["step"])

    def _keep(self, step: int) -> None:
        folder = Path(self.config.output)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": self._settings,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": step,
        }
        torch.save(state, folder / "checkpoint.part")
        os.replace(folder / "checkpoint.part", folder / "checkpoint.pt")

"""TopK sparse autoencoders (Gao et al. 2024, arXiv 2406.04093): read from safetensors, or trained on hidden states.

    z = TopK_k(relu(W_enc (x - b_dec) + b_enc))        x^ = z W_dec + b_dec        z (d'), >= 0, at most k non-zero

A given one is a folder with ``cfg.json`` (``d_in``, ``k``) and ``sae.safetensors`` (``encoder.weight`` (d', d),
``encoder.bias`` (d',), ``W_dec`` (d', d), ``b_dec`` (d,)), the layout of EleutherAI's published ones. One that was
trained here is an artifact (``selectors/artifact.py``) with arrays of these names, and may be given as the path of its
JSON.

Training minimises the unexplained share of variance with Adam on hidden states scaled to a mean square of 1 (the scale
is put into the weights afterwards). Decoder rows keep length 1. Latents that have not fired for ``_DEAD_AFTER`` batches
are taught the residual of the others with weight 1/32 (the AuxK loss of the paper), else most would never fire.

Price: encoding 2 d d' operations a token; training six times that for each token and epoch, and 16 d d' bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import derive, stream
from penstock.selectors import artifact

if TYPE_CHECKING:
    import torch

NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

_BATCH = 2048  # hidden states of a step
_DEAD_AFTER = 16  # batches
_AUXILIARY = 1 / 32
_HELD_OUT = 0.05


@dataclass(frozen=True)
class SparseAutoencoder:
    """Weights on a device: ``encoder`` (d', d), ``bias`` (d',), ``decoder`` (d', d), ``shift`` (d,); k latents fire."""

    encoder: torch.Tensor
    bias: torch.Tensor
    decoder: torch.Tensor
    shift: torch.Tensor
    k: int

    @property
    def width(self) -> int:
        """d', the number of latents."""
        return len(self.encoder)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (n, k), >= 0, and latents (n, k) of hidden states (n, d)."""
        import torch

        before = torch.relu((x.to(self.encoder.dtype) - self.shift) @ self.encoder.T + self.bias)
        values, latents = before.topk(self.k, dim=1, sorted=False)
        return values, latents

    def decode(self, values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, d) from codes."""
        import torch

        return torch.einsum("nk,nkd->nd", values, self.decoder[latents]) + self.shift


@dataclass(frozen=True, kw_only=True)
class SaeTraining:
    """How an autoencoder is trained.

    Args:
        expansion: latents for each dimension of the hidden states; allowed >= 1.
        k: latents that fire; None is a sixteenth of the dimensions, at least 8.
        epochs: over the hidden states; allowed >= 1.
        learning_rate: None is 2e-4 sqrt(16384 / d'), the rule of the published ones.
    """

    expansion: int = 16
    k: int | None = None
    epochs: int = 4
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("expansion", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sae {name}: got {getattr(self, name)}, allowed >= 1; raise it")
        if self.k is not None and self.k < 1:
            raise ConfigError(f"sae k: got {self.k}, allowed >= 1; leave it out for a sixteenth of the dimensions")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"sae learning_rate: got {self.learning_rate}, allowed > 0; leave it out")


def train_sae(hidden: torch.Tensor, settings: SaeTraining, *, seed: int) -> tuple[SparseAutoencoder, dict[str, float]]:
    """An autoencoder of hidden states (n, d), and facts on a twentieth that was held out.

    Facts: ``unexplained``, the share of variance that is lost; ``dead``, the share of latents that fired on no training
    token of the last epoch; ``tokens``.

    Raises:
        ConfigError: fewer than 40 hidden states, k above the latents, or hidden states without any variance.
    """
    import torch

    count, width = hidden.shape
    latents = settings.expansion * width
    k = settings.k or max(8, width // 16)
    if count < 40:
        raise ConfigError(f"sae: got {count} tokens to train on, allowed >= 40; give more or longer texts")
    if k > latents:
        raise ConfigError(f"sae k: got {k}, allowed <= {latents}, the latents there are; lower it or raise expansion")
    order = torch.from_numpy(stream(seed, "sae held out").permutation(count)).to(hidden.device)
    held = max(1, int(_HELD_OUT * count))
    tested, known = hidden[order[:held]].float(), hidden[order[held:]].float()
    scale = float(known.pow(2).mean().sqrt())
    if not (math.isfinite(scale) and float(known.var(dim=0).sum()) > 0):
        raise ConfigError("sae: got hidden states that are all equal or no numbers; take another layer or model")
    known = known / scale

    shift = known.mean(dim=0)
    draw = torch.Generator().manual_seed(derive(seed, "sae weights"))
    rows = torch.randn(latents, width, generator=draw).to(hidden.device)
    decoder = rows / rows.norm(dim=1, keepdim=True)
    parameters = [decoder.clone(), torch.zeros(latents, device=hidden.device), decoder, shift]
    for tensor in parameters:
        tensor.requires_grad_()
    fired = _fit(known, parameters, k, settings, latents, seed)
    encoder, bias, decoder, shift = (tensor.detach() for tensor in parameters)
    # x / scale goes in and scale x^ comes out, so that the weights fit hidden states as they are
    made = SparseAutoencoder(encoder / scale, bias, decoder * scale, shift * scale, k)
    error = made.decode(*made.encode(tested)) - tested
    spread = tested - tested.mean(dim=0)
    unexplained = float(error.pow(2).sum() / spread.pow(2).sum().clamp(min=1e-30))
    return made, {"unexplained": unexplained, "dead": 1 - float(fired.float().mean()), "tokens": float(len(known))}


def _fit(
    known: torch.Tensor, parameters: list[torch.Tensor], k: int, settings: SaeTraining, latents: int, seed: int
) -> torch.Tensor:
    """Train the parameters in place; gives which latents fired in the last epoch."""
    import torch

    encoder, bias, decoder, shift = parameters
    width = known.shape[1]
    rate = settings.learning_rate or 2e-4 * math.sqrt(2**14 / latents)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    batch = min(_BATCH, max(16, len(known) // 32))
    variance = (known - known.mean(dim=0)).pow(2).sum(dim=1).mean()
    silent = torch.zeros(latents, dtype=torch.int64, device=known.device)  # batches since a latent fired
    fired = torch.zeros(latents, dtype=torch.bool, device=known.device)
    steps, step = settings.epochs * math.ceil(len(known) / batch), 0
    for epoch in range(settings.epochs):
        fired.zero_()
        order = torch.from_numpy(stream(seed, "sae order", epoch).permutation(len(known))).to(known.device)
        for places in order.split(batch):
            x = known[places]
            before = torch.relu((x - shift) @ encoder.T + bias)
            values, which = before.topk(k, dim=1, sorted=False)
            error = torch.einsum("nk,nkd->nd", values, decoder[which]) + shift - x
            loss = error.pow(2).sum(dim=1).mean() / variance
            dead = silent >= _DEAD_AFTER
            if bool(dead.any()):
                spare = min(width // 2 or 1, int(dead.sum()))
                taught, those = before.masked_fill(~dead, 0.0).topk(spare, dim=1, sorted=False)
                made = torch.einsum("nk,nkd->nd", taught, decoder[those])
                loss = loss + _AUXILIARY * (made + error.detach()).pow(2).sum(dim=1).mean() / variance
            loss.backward()
            with torch.no_grad():
                # along a decoder row's own direction there is nothing to learn, as its length is kept
                assert decoder.grad is not None
                decoder.grad -= (decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder
                for group in optimizer.param_groups:  # constant, then down to 0 over the last fifth
                    group["lr"] = rate * min(1.0, 5 * (steps - step) / steps)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                decoder /= decoder.norm(dim=1, keepdim=True)
                active = torch.zeros_like(fired)
                active[which[values > 0]] = True
                silent = torch.where(active, 0, silent + 1)
                fired |= active
            step += 1
    return fired


def save_sae(folder: str, sae: SparseAutoencoder, facts: dict[str, Any]) -> tuple[str, str]:
    """Write an autoencoder as an artifact: (path of its JSON, digest)."""
    tensors = zip(NAMES, (sae.encoder, sae.bias, sae.decoder, sae.shift), strict=True)
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors}
    return artifact.save(folder, "sae", arrays, {"d_in": sae.encoder.shape[1], "k": sae.k, **facts})


def sae_files(path: str) -> list[Path]:
    """The two files of an autoencoder: settings and weights.

    Args:
        path: a folder of the published layout, or the JSON of an artifact.

    Raises:
        ConfigError: they are not there.
    """
    given = Path(path)
    found = [given, given.with_suffix(".safetensors")] if given.suffix == ".json" else [given / CONFIG, given / WEIGHTS]
    if missing := [file.name for file in found if not file.is_file()]:
        raise ConfigError(
            f"sae: got {path}, where no {' and no '.join(missing)} is; give a folder with {CONFIG} and {WEIGHTS}, or "
            "the JSON of an autoencoder that was trained here"
        )
    return found


def sae_digest(path: str) -> str:
    """sha256 over both files. Raises ConfigError when they are not there."""
    state = hashlib.sha256()
    for file in sae_files(path):
        with open(file, "rb") as opened:
            state.update(hashlib.file_digest(opened, "sha256").digest())
    return state.hexdigest()


@lru_cache(maxsize=1)
def load_sae(path: str, digest: str, device: str, k: int | None = None) -> SparseAutoencoder:
    """The autoencoder, once a process; read in float32.

    Args:
        digest: ``sae_digest`` of it.
        k: latents that fire; None is as many as in its training.

    Raises:
        ConfigError: it is of another kind (signed codes, a transcoder, no TopK), lacks tensors, or has fewer latents
            than ``k``.
        DatasetError: its files changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if sae_digest(path) != digest:
        raise DatasetError(f"{path}: the autoencoder's files changed since the run began; run again")
    settings, weights = sae_files(path)
    try:
        said = json.loads(settings.read_text("utf-8"))
        said = said.get("facts", said)
        tensors = load_file(weights, device=device)
    except (ValueError, AttributeError, OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: no autoencoder that can be read ({error}); give another one") from error
    other = [name for name in ("signed", "transcode") if said.get(name)]
    if other or said.get("activation", "topk") != "topk":
        kind = ", ".join(other) or said["activation"]
        raise ConfigError(f"{path}: got an autoencoder that is {kind}, allowed TopK with codes >= 0; take another one")
    if missing := [name for name in NAMES if name not in tensors]:
        raise ConfigError(f"{path}: lacks {', '.join(missing)}, allowed {', '.join(NAMES)}; rename or take another one")
    encoder, bias, decoder, shift = (tensors[name].float() for name in NAMES)
    k = k or int(said.get("k") or 0)
    if not 1 <= k <= len(encoder):
        raise ConfigError(f"sae k: got {k}, allowed 1 to {len(encoder)}, the latents of {path}; set it")
    return SparseAutoencoder(encoder, bias, decoder, shift, k)

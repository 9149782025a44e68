"""Causal language models over packed sequences: build one or load one, and its loss token by token.

Documents share a sequence but not their attention: positions restart at every segment and the mask
is causal inside a segment (block-diagonal). A token is predicted only from tokens of its own segment, so
a packed document has the loss it would have alone, and the first token of a segment has none. Padding
attends to itself and is never predicted. A token that is not learned, such as one of a prompt, is read like any other
and has no loss. With ``cross_document_attention`` the mask is plainly causal
over the sequence and positions do not restart; which tokens are predicted stays the same.

Price: a boolean mask of n * L * L bytes; logits only at predicted positions, in float32:
4 * V bytes each, twice while the gradient is taken. A smaller micro-batch bounds both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from penstock.errors import ConfigError
from penstock.seeding import derive
from penstock.training.config import ModelConfig
from penstock.training.losses import sums_by_segment

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def build_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    length: int,
    seed: int,
    pad_id: int | None = None,
    eos_id: int | None = None,
) -> Any:
    """A transformers causal LM in float32 on CPU: seeded random weights, or those of ``config.path``.

    Args:
        vocab_size: token ids the data may hold.
        length: tokens per training sequence.
        seed: of the random weights; the global generator of PyTorch is left as it was.

    Raises:
        ConfigError: the path is no causal LM with safetensors weights, its vocabulary is smaller than
            the data's, or the context or a sliding window is shorter than the sequences.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if config.path is not None:
        model = load_local(config.path)
    else:
        settings = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context_length or length,
            tie_word_embeddings=config.tie_embeddings,
            pad_token_id=pad_id,
            bos_token_id=None,
            eos_token_id=eos_id,
            attn_implementation="sdpa",
        )
        make: Any = LlamaForCausalLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "initial weights"))
            model = make(settings)
    of_model = model.config
    if of_model.vocab_size < vocab_size:
        raise ConfigError(
            f"model: its vocabulary is {of_model.vocab_size}, the data's {vocab_size}; use the model's own tokenizer"
        )
    for name in ("max_position_embeddings", "sliding_window"):
        limit = getattr(of_model, name, None)
        active = name != "sliding_window" or getattr(of_model, "use_sliding_window", True)
        if limit is not None and active and limit < length:
            raise ConfigError(f"model: {name} is {limit}, the sequences have {length} tokens; pack shorter sequences")
    return model


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own while it reads and writes weights."""
    from transformers import utils

    logging: Any = utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# kind of model: its class and its table of architectures in transformers, and how messages name it
_HEADS = {
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "causal LM", "causal language model"),
    "sequence": (
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "sequence classifier",
        "sequence classifier",
    ),
}


def load_local(
    path: str,
    *,
    what: str = "model.path",
    dtype: str = "float32",
    attention: str | None = "sdpa",
    head: Literal["causal", "sequence"] = "causal",
) -> Any:
    """The model in a local folder, refusing anything that would leave weights at random or run its code.

    Args:
        head: a causal LM, or a sequence classifier.
        what: how messages name the setting.
        dtype: name of the torch type of the weights.
        attention: implementation; None is what transformers takes for the family.

    Raises:
        ConfigError: the folder is no such model with safetensors weights.
    """
    import torch
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    loader, table, short, long = _HEADS[head]
    advice = f"give a local folder of a Hugging Face {long} with safetensors weights"
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(f"{what}: {path} holds no config.json; {advice}")
    try:
        settings = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{what}: {path} has a configuration that cannot be read ({error}); {advice}") from error
    known: set[str] = set()
    for names in getattr(modeling_auto, table).values():
        known.update([names] if isinstance(names, str) else names)
    # the class is looked at, not only the model type: BERT, say, has a causal head that its checkpoints lack
    classes = list(getattr(settings, "architectures", None) or [])
    if not known.intersection(classes):
        raise ConfigError(f"{what}: {path} is {', '.join(classes) or 'of no named class'}, no {short}; {advice}")
    try:
        with without_progress_bars():
            loaded: Any = getattr(transformers, loader).from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{what}: {path} cannot be loaded ({error}); {advice}") from error
    model, info = loaded
    if info["missing_keys"]:
        raise ConfigError(f"{what}: {path} lacks the weights {sorted(info['missing_keys'])}; {advice}")
    return model


@dataclass(frozen=True)
class PackedInputs:
    """One micro-batch on a device; P is the number of predicted tokens that are learned, S of segments."""

    tokens: torch.Tensor  # (n, L) int64
    positions: torch.Tensor  # (n, L) int64
    segment_ids: torch.Tensor  # (n, L) int64, -1 on padding
    places: torch.Tensor  # (P,) index into the flattened (n * L) of the token before each predicted one
    targets: torch.Tensor  # (P,) predicted token ids
    segments: torch.Tensor  # (P,) flat segment of each predicted token
    segment_count: int  # S


def predicted_tokens(segment_ids: NDArray[np.int64], learned: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which tokens but the first of each row have a loss: (n, L - 1).

    Those that follow a token of their segment and, unless ``learned`` (n, L) is None, are learned.
    """
    inside: NDArray[np.bool_] = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] >= 0)
    return inside if learned is None else inside & learned[:, 1:]


def pack_inputs(
    tokens: NDArray[Any],
    segment_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    learned: NDArray[np.bool_] | None = None,
    *,
    device: torch.device,
) -> PackedInputs:
    """Move n sequences to ``device`` and find what is predicted and learned.

    Segments are numbered through the rows: those of row i follow those of row i - 1. Tokens may be of any integer type,
    as a file holds them: (n, L).
    """
    import torch

    tokens = tokens.astype(np.int64, copy=False)
    counts = segment_ids.max(axis=1, initial=-1) + 1
    first = np.cumsum(counts) - counts
    predicted = predicted_tokens(segment_ids, learned)
    row, place = np.nonzero(predicted)

    def move(values: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        # pinned memory lets the copy run beside the device's work
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    return PackedInputs(
        tokens=move(tokens),
        positions=move(positions),
        segment_ids=move(segment_ids),
        places=move(row * tokens.shape[1] + place),
        targets=move(tokens[row, place + 1]),
        segments=move(first[row] + segment_ids[row, place]),
        segment_count=int(counts.sum()),
    )


def attention_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """True where a token may look: earlier in its own segment. Shape (n, 1, L, L) from (n, L)."""
    import torch

    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    return ((segment_ids[:, :, None] == segment_ids[:, None, :]) & causal)[:, None]


def logits_function(model: Any) -> Callable[[dict[str, Any], torch.Tensor], torch.Tensor]:
    """How to get logits at chosen places: ``f(inputs, places) -> (P, V)``.

    For a model whose logits are just its head on its last hidden states, only the chosen places go
    through the head. Some families scale or cap their logits after the head; for them all logits are
    made. Which one it is, is tried out on eight tokens.
    """
    head = model.get_output_embeddings()

    def through_head(inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = head(hidden_states(model, inputs, places))
        return out

    def whole(inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(**inputs, use_cache=False).logits.flatten(0, 1)[places]
        return out

    return through_head if has_plain_head(model) else whole


def hidden_states(model: Any, inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
    """What the head reads at the chosen places: shape (P, hidden size)."""
    out: torch.Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)[places]
    return out


def has_plain_head(model: Any) -> bool:
    """Whether logits are just the head on the last hidden states; tried out on eight tokens."""
    import torch

    head, training = model.get_output_embeddings(), model.training
    if head is None:
        return False
    model.eval()
    with torch.no_grad():
        probe = torch.arange(8, device=model.device)[None] % model.config.vocab_size
        places = torch.arange(8, device=model.device)
        through = head(hidden_states(model, {"input_ids": probe}, places))
        plain = torch.allclose(through, model(input_ids=probe, use_cache=False).logits[0], atol=1e-4)
    model.train(training)
    return bool(plain)


def check_isolation(model: Any, logits_of: Callable[[dict[str, Any], torch.Tensor], torch.Tensor]) -> None:
    """Make sure that the model obeys positions and mask: two packed segments against the second alone.

    A family without rotary or learned positions, or one that ignores a given mask, would read across
    documents without a word. Raises ConfigError for it.
    """
    import torch

    training = model.training
    model.eval()
    tokens = torch.arange(1, 9, device=model.device)[None] % model.config.vocab_size
    ids = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]], device=model.device)
    places = torch.arange(4, device=model.device)
    packed = {"input_ids": tokens, "position_ids": torch.arange(8, device=model.device)[None] % 4}
    packed["attention_mask"] = attention_mask(ids)
    try:
        with torch.no_grad():
            among, alone = logits_of(packed, places + 4), logits_of({"input_ids": tokens[:, 4:]}, places)
        isolated = bool(torch.allclose(among, alone, rtol=0.0, atol=1e-3 * float(alone.abs().max())))
    except (TypeError, ValueError, RuntimeError):
        isolated = False
    finally:
        model.train(training)
    if not isolated:
        raise ConfigError(
            f"model: {type(model).__name__} does not keep packed documents apart; "
            "use another model or set cross_document_attention: true"
        )


def token_losses(
    logits_of: Callable[[dict[str, Any], torch.Tensor], torch.Tensor],
    inputs: PackedInputs,
    *,
    cross_document_attention: bool = False,
) -> torch.Tensor:
    """Cross-entropy in nats of every predicted token that is learned: shape (P,), float32, with gradient."""
    import torch

    arguments = model_arguments(
        inputs.tokens, inputs.positions, inputs.segment_ids, cross_document_attention=cross_document_attention
    )
    logits = logits_of(arguments, inputs.places)
    return torch.nn.functional.cross_entropy(logits.float(), inputs.targets, reduction="none")


def model_arguments(
    tokens: torch.Tensor, positions: torch.Tensor, segment_ids: torch.Tensor, *, cross_document_attention: bool
) -> dict[str, Any]:
    """What a transformers model is called with for packed sequences (n, L)."""
    arguments: dict[str, Any] = {"input_ids": tokens}
    if not cross_document_attention:
        arguments |= {"position_ids": positions, "attention_mask": attention_mask(segment_ids)}
    return arguments


def segment_sums(losses: torch.Tensor, inputs: PackedInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of losses and number of tokens with a loss of every segment: two float64 tensors of shape (S,)."""
    return sums_by_segment(losses, inputs.segments, inputs.segment_count)

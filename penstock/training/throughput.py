"""How well a device is used: floating-point operations of a step, and the share of the peak that they are (MFU).

Model FLOPs utilisation (PaLM, Chowdhery et al. 2022, appendix B) counts what a forward and a backward pass need, no
recomputation, for every token that is not padding::

    FLOPs per token = 6 N + 12 * layers * heads * head_dim * L
    MFU             = tokens per second * FLOPs per token / (devices * peak)

N are the parameters that multiply: all but an input embedding that is not the head's as well. L is the sequence's
length: attention scores are counted as if every token looked at all L, as the paper does, though the mask of a packed
sequence leaves less than half of them.

Peaks are the makers' dense figures without sparsity. A device that is not listed, and a CPU, has no MFU unless the
configuration says its peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# dense peak in TFLOP/s of a device whose name holds the key: (bfloat16, float32 with TF32 off), makers' data sheets
PEAK_TFLOPS = {
    "H200": (989.4, 66.9),
    "H100 PCIe": (756.5, 51.2),
    "H100 NVL": (835.5, 60.0),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
}


def multiplying_parameters(model: Any) -> int:
    """Parameters that take part in a matrix product for every token (tied ones once)."""
    total = sum(p.numel() for p in model.parameters())
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    return int(total if tied else total - table.weight.numel())


def flops_per_token(model: Any, length: int) -> float:
    """Operations of one token's forward and backward pass in sequences of ``length`` tokens, as above."""
    config = model.config
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return float(6 * multiplying_parameters(model) + 12 * config.num_hidden_layers * heads * head_dim * length)


def peak_flops(device: torch.device, *, bfloat16: bool, peak_tflops: float | None) -> float | None:
    """Operations per second that one device can do at most; None where it is not known."""
    import torch

    if peak_tflops is not None:
        return peak_tflops * 1e12
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for key, peaks in PEAK_TFLOPS.items():
            if all(word in name for word in key.split()):
                return peaks[0 if bfloat16 else 1] * 1e12
    return None

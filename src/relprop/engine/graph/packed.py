"""Linear layers of bitsandbytes whose weights are packed to 4 bits, as operators that a capture can follow.

For each entry there are 4 bits, two entries in a byte and the first one in its upper half, which choose from a table of
16 numbers; and a scale for each block of entries: `w_i = code[bits_i] · scale_{i // block}`. The scales may be packed
in turn, to 8 bits: `scale_j = code'[bits_j] · scale'_{j // block'} + offset`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.errors import CaptureError

UNPACKED = {"Linear4bit", "LinearNF4", "LinearFP4"}
READ = ("absmax", "code", "blocksize", "shape")
"""What a layer's state must say of its weight."""


def check_packed(where: str, module: nn.Module) -> None:
    """Raise a `CaptureError` for a layer of bitsandbytes that is not unpacked here.

    Args:
        where: what the message calls it.
        module: any module.
    """
    if not type(module).__module__.startswith("bitsandbytes.") or _is_readable(module):
        return
    if "8bit" in type(module).__name__:
        raise CaptureError(
            f"{where} rounds its inputs to 8 bits too, by kernels of bitsandbytes that have no graph. "
            "model.dequantize() of transformers makes float layers of its weights; 4 bits of bitsandbytes and integer "
            "weights of torchao are explained as they are."
        )
    if getattr(_state(module), "packing_format_for_cpu", False):
        raise CaptureError(
            f"{where} has been rearranged by bitsandbytes for this CPU, which it does when a model runs. "
            "Load the model anew and explain it before it runs otherwise (give the answer that it is to explain), or "
            "make float layers of its weights: model.dequantize() of transformers."
        )
    raise CaptureError(
        f"{where} packs its weights for bitsandbytes' own kernels, in a form that is not known here. "
        "model.dequantize() of transformers makes float layers of them; integer weights of torchao are explained as "
        "they are."
    )


def _is_readable(module: nn.Module) -> bool:
    """A linear layer whose weight was packed, entry after entry."""
    state = _state(module)
    known = type(module).__name__ in UNPACKED and all(getattr(state, name, None) is not None for name in READ)
    return known and not getattr(state, "packing_format_for_cpu", False)


def _state(module: nn.Module) -> Any:
    """What tells how to unpack: at the weight, or at the module, where the weight was copied."""
    found = getattr(module.weight, "quant_state", None) if isinstance(module, nn.Linear) else None
    return getattr(module, "quant_state", None) if found is None else found


def unpack_weights(shadow: nn.Module) -> None:
    """Have packed linear layers of a copy of a model compute with plain operators."""
    for module in shadow.modules():
        if type(module).__module__.startswith("bitsandbytes.") and _is_readable(module):
            module.forward = _linear(module)


def stay_packed(trial: nn.Module) -> None:
    """Keep layers of a copy that is run from being rearranged for the CPU, which also rounds to bfloat16."""
    for module in trial.modules():
        if type(module).__module__.startswith("bitsandbytes.") and hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def _linear(module: Any) -> Callable[[Tensor], Tensor]:
    """The forward of a packed layer: in its own dtype for computing, if it has one."""
    state, bias = _state(module), module.bias
    packed = nn.Parameter(module.weight.detach().as_subclass(Tensor), requires_grad=False)
    module._parameters["weight"] = packed

    def forward(x: Tensor) -> Tensor:
        dtype = x.dtype if module.compute_dtype is None else module.compute_dtype
        weight = unpacked(packed, state).to(dtype)
        return F.linear(x.to(dtype), weight, None if bias is None else bias.to(dtype)).to(x.dtype)

    return forward


def unpacked(packed: Tensor, state: Any) -> Tensor:
    """The weight in float32.

    Args:
        packed: two entries in a byte.
        state: bitsandbytes' `QuantState`, or what has its attributes.
    """
    scales = state.absmax
    inner = getattr(state, "state2", None)
    if inner is not None:
        scales = inner.code[scales.long()] * _repeated(inner.absmax, inner.blocksize, scales.numel()) + state.offset
    octets = packed.reshape(-1).view(torch.uint8)
    bits = torch.stack([octets >> 4, octets & 15], -1).reshape(-1)[: torch.Size(state.shape).numel()]
    entries = state.code.float()[bits.long()] * _repeated(scales.float(), state.blocksize, bits.numel())
    weight: Tensor = entries.reshape(tuple(state.shape))
    return weight


def _repeated(scales: Tensor, block: int, count: int) -> Tensor:
    """The scale of each of so many entries."""
    return scales[:, None].expand(-1, block).reshape(-1)[:count]

"""Modules of PyTorch's quantization while a model is still a float one: observers and fake quantization.

Observers hand on what they see. Fake quantization rounds to the steps that a scale and a zero point make, by operators
that cannot be exported: here they are one of relprop's own. Its module also observes and switches, by values of
buffers, which cannot be captured either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.overrides import TorchFunctionMode

from relprop.engine.graph.operators import round_to_steps
from relprop.errors import CaptureError

SWITCHES = ("observer_enabled", "fake_quant_enabled")
"""Buffers of a module of fake quantization that its program depends on."""


_library = torch.library.Library("relprop", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "round_to_steps(Tensor x, Tensor scale, Tensor zero_point, int axis, int low, int high) -> Tensor"
)
torch.library.register_fake("relprop::round_to_steps", lambda x, *_: torch.empty_like(x), lib=_library)


class RoundingAsOneOperator(TorchFunctionMode):
    """Within it, fake quantization is one call of relprop's operator."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.fake_quantize_per_tensor_affine:
            return _per_tensor(*args, **(kwargs or {}))
        if func is torch.fake_quantize_per_channel_affine:
            return _per_channel(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _per_tensor(input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Tensor:
    scale, zero_point = (t if isinstance(t, Tensor) else torch.scalar_tensor(t) for t in (scale, zero_point))
    result: Tensor = torch.ops.relprop.round_to_steps(input, scale, zero_point, -1, quant_min, quant_max)
    return result


def _per_channel(input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int) -> Tensor:
    result: Tensor = torch.ops.relprop.round_to_steps(input, scale, zero_point, axis, quant_min, quant_max)
    return result


def restore(graph: FxGraph) -> None:
    """What the operator computes, as a function."""
    for node in graph.nodes:
        if node.target == torch.ops.relprop.round_to_steps.default:
            node.target = round_to_steps


def check_observers(name: str, module: nn.Module) -> None:
    """Raise a `CaptureError` where fake quantization changes its scale with every call."""
    if quantizes(module) and int(module.get_buffer("observer_enabled")[0]):
        raise CaptureError(
            f"{name} ({type(module).__name__}) still observes: every call of the model changes the scale that it "
            "rounds with, so that there is no program to explain. Stop it: "
            "model.apply(torch.ao.quantization.disable_observer)."
        )


def quantizes(module: nn.Module) -> bool:
    """A module of fake quantization, PyTorch's or torchao's."""
    return _descends(module, "FakeQuantizeBase")


def without_observers(shadow: nn.Module) -> None:
    """Have observers hand on what they see, and fake quantization round with the scale that it has."""
    for module in shadow.modules():
        if quantizes(module):
            module.forward = _rounding(module)
        elif _descends(module, "ObserverBase"):
            module.forward = _handed_on


def _descends(module: nn.Module, base: str) -> bool:
    kinds = type(module).__mro__
    return any(k.__name__ == base and k.__module__.partition(".")[0] in {"torch", "torchao"} for k in kinds)


def _handed_on(x: Tensor) -> Tensor:
    return x


def _rounding(module: Any) -> Any:
    """The forward of a module of fake quantization that does not observe."""
    if not int(module.fake_quant_enabled[0]):
        return _handed_on
    steps = module.activation_post_process
    low, high, per_channel = steps.quant_min, steps.quant_max, module.is_per_channel

    def forward(x: Tensor) -> Tensor:
        if per_channel:
            return torch.fake_quantize_per_channel_affine(
                x, module.scale, module.zero_point.to(torch.int32), module.ch_axis, low, high
            )
        return torch.fake_quantize_per_tensor_affine(x, module.scale, module.zero_point, low, high)

    return forward

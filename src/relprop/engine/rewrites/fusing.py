"""A scale `s` and a shift `t` per channel, such as a batch norm with fixed statistics, taken in by a layer next to it.

    behind a layer          s (W a + b) + t = (s W) a + (s b + t)
    in front of a layer     W (s a + t) + b = (W s) a + (W t + b), if the layer pads nothing

When that can be done and how stands here, for graphs and for modules. What computes is handed in as `apply`: for
modules it calls a function of tensors, for graphs it inserts a call of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from relprop.engine.graph import operators as f

Apply = Callable[..., Any]
"""(function, *arguments) -> its result, or the node that will be its result."""


class Channels(NamedTuple):
    """Scale and shift of each channel, shape (C,): tensors or nodes."""

    scaling: Any
    shift: Any


@dataclass(frozen=True)
class Fusable:
    """What decides whether a layer takes in scales and shifts.

    Attributes:
        inputs, outputs: numbers of its channels.
        transposed: a transposed convolution, which keeps its outputs in dimension 1 of the weight.
        groups: of its channels.
        pads: its inputs get a border of zeros, which no shift reaches.
    """

    inputs: int | None
    outputs: int | None
    transposed: bool = False
    groups: int = 1
    pads: bool = False

    def takes_behind(self, channels: int | None) -> bool:
        """A scale and a shift of so many channels behind the layer."""
        return self.outputs == channels

    def takes_in_front(self, channels: int | None) -> bool:
        """The same in front of it."""
        return self.inputs == channels and not self.transposed and not self.pads

    def behind(self, apply: Apply, weight: Any, bias: Any, channels: Channels) -> tuple[Any, Any]:
        """Weight and bias with scale and shift in them."""
        dim = 1 if self.transposed else 0
        return (
            apply(f.fused_weight, weight, channels.scaling, dim, self.groups),
            apply(f.fused_bias, bias, channels.scaling, channels.shift),
        )

    def in_front(self, apply: Apply, weight: Any, bias: Any, channels: Channels) -> tuple[Any, Any]:
        """The same, where scale and shift come before the layer."""
        return (
            apply(f.weight_of_scaled, weight, channels.scaling, self.groups),
            apply(f.bias_of_shifted, weight, bias, channels.shift, self.groups),
        )


def fixed_statistics(apply: Apply, weight: Any, bias: Any, mean: Any, variance: Any, eps: float) -> Channels:
    """`s = γ/σ` and `t = β − μγ/σ` of a batch norm."""
    scaling = apply(f.batch_norm_weight, weight, variance, eps)
    return Channels(scaling, apply(f.batch_norm_bias, bias, mean, scaling))


def pads(padding: Any) -> bool:
    """A convolution's padding adds something, or may."""
    return padding != "valid" and (isinstance(padding, str) or bool(any(padding) if _several(padding) else padding))


def _several(padding: Any) -> bool:
    return isinstance(padding, (list, tuple))

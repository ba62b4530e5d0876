"""Adjoints of affine operators written out, so that no forward pass is needed to have them.

None: not this case, differentiate instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, operator_name
from relprop.engine.ops.tape import Tape

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def _linear(node: Node, tape: Tape, w: Tensor, s: Tensor) -> Tensor | None:
    rows = s.contiguous().reshape(-1, s.shape[-1])  # of more dimensions, torch 2.9 cannot trace it with open sizes
    return (rows @ w).reshape(*s.shape[:-1], w.shape[-1])


def _scale(node: Node, tape: Tape, w: Tensor, s: Tensor) -> Tensor | None:
    c: Tensor = (s * w).sum_to_size(tape.shapes[data_inputs(node)[0]])
    return c


def _convolution(node: Node, tape: Tape, w: Tensor, s: Tensor) -> Tensor | None:
    source = data_inputs(node)[0]
    x = tape.value(source) if source in tape.values else tape.blank(source)
    return _convolution_backward(node, x, w, s)


def convolution_of_ones(node: Node, tape: Tape, w: Tensor, s: Tensor) -> Tensor | None:
    """With all weights 1, outputs may be summed first, and all inputs of a group get the same."""
    shape = tape.shapes[data_inputs(node)[0]]
    if len(shape) != w.dim():
        return None
    groups = int(_geometry(node)["groups"])
    summed = s.reshape(s.shape[0], groups, -1, *s.shape[2:]).sum(2)
    x = s.new_zeros(()).expand(shape[0], groups, *shape[2:])
    c = _convolution_backward(node, x, s.new_ones(groups, 1, *w.shape[2:]), summed)
    if c is None or groups == shape[1]:
        return c
    return c.expand(shape) if groups == 1 else c.repeat_interleave(shape[1] // groups, 1)


def _convolution_backward(node: Node, x: Tensor, w: Tensor, s: Tensor) -> Tensor | None:
    given, spatial = _geometry(node), w.dim() - 2
    if isinstance(given["padding"], str) or x.dim() != spatial + 2:
        return None
    stride, padding, dilation, extra = (
        _each(given[k], spatial) for k in ("stride", "padding", "dilation", "output_padding")
    )
    transposed = "transpose" in operator_name(node)
    c: Tensor = torch.ops.aten.convolution_backward(
        s, x, w, None, stride, padding, dilation, transposed, extra, given["groups"], [True, False, False]
    )[0]
    return c


def _geometry(node: Node) -> dict[str, Any]:
    """Stride, padding, dilation, groups and output padding of a convolution."""
    names = ("stride", "padding", "dilation", "groups")
    if "transpose" in operator_name(node):
        names = ("stride", "padding", "output_padding", "groups", "dilation")  # type: ignore[assignment]
    given: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}
    return given | dict(zip(names, node.args[3:], strict=False)) | node.kwargs


def _each(value: Any, n: int) -> list[int]:
    values = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    return values * n if len(values) == 1 else values


ADJOINTS: Mapping[str, Callable[[Node, Tape, Tensor, Tensor], Tensor | None]] = {
    "linear": _linear,
    "scale": _scale,
    **dict.fromkeys(CONVOLUTIONS + TRANSPOSED, _convolution),
}

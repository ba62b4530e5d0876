"""Grad-CAM: a layer's channels, weighted by their mean gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.analyzers.analyzer import Call
from relprop.analyzers.gradient import Function, FunctionAnalyzer, answer_of, gradient, masks
from relprop.analyzers.modules import name_of
from relprop.engine.graph.graph import Node, fake_value, info, where_is
from relprop.engine.graph.run import values_of
from relprop.engine.layers.select import by_pattern, module_outputs
from relprop.engine.ops.analysis import needs_rule, reached_by_relevance
from relprop.engine.ops.registry import op_of
from relprop.engine.program.question import Answer
from relprop.errors import InputError
from relprop.targets import Seed, Target
from relprop.targets.target import widened

MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class GradCAM(FunctionAnalyzer):
    """`M = max(0, Σ_c α_c A_c)` with `α_c` the mean of `∂y/∂A_c` over the positions (Selvaraju et al. 2017).

    A (B, C, ...) is the output of a layer. The map is interpolated to the size of the input, and spread evenly over
    its channels, so that they sum to it; as it was, (B, 1, ...), it is in `layers`.

    Args:
        layer: a module, by name or itself. None: the last convolution.
        options: those of `Analyzer`. Batch norms stay behind their convolutions, unless `canonize=True`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop.analyzers import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
        >>> expl = GradCAM(model)(torch.rand(2, 3, 6, 6), target=1)
        >>> expl.relevance.shape, expl.layers["0"].shape
        (torch.Size([2, 3, 6, 6]), torch.Size([2, 1, 4, 4]))
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module | None = None, **options: Any) -> None:
        super().__init__(model, **{"canonize": False} | options)
        self.layer = None if layer is None else name_of(self._source, layer)

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        (a,) = inputs
        (g,) = gradient(function, inputs, seed)
        alpha = g.flatten(2).mean(2).reshape(*g.shape[:2], *[1] * (g.dim() - 2))
        return [(alpha * a).sum(1, keepdim=True).clamp(min=0)]

    def _answer(self, call: Call, start: Node, target: Target) -> Answer:
        with torch.inference_mode(False), torch.no_grad():
            seed, values = Seed(target, self._normalize_output), values_of(call.graph, call.inputs)
            name, node = self._node(call, start)
            if values[node].dim() not in MODES:
                raise InputError(
                    f"GradCAM needs a layer with positions, (B, C, ...): {name!r} has {values[node].shape}."
                )
            function = Function(call.graph, call.inputs, [node], start)
            (small,) = self.relevance(function, [values[node]], seed)
            x, input_ = self._picture(call, start, values, small)
            large = F.interpolate(widened(small), x.shape[2:], mode=MODES[x.dim()]).to(x.dtype)
            relevance = {input_: large.expand_as(x) / x.shape[1]}
            return replace(answer_of(call, start, seed, values, relevance), relevance={name: small})

    def _node(self, call: Call, start: Node) -> tuple[str, Node]:
        """The layer's name, and the node that is its output."""
        reached = reached_by_relevance(start)
        if self.layer is not None:
            found = by_pattern(module_outputs(call.graph, (), reached), self.layer, "layer")
            if len(found) != 1:
                raise InputError(f"layer={self.layer!r} fits {len(found)} modules: give one.")
            return next(iter(found.items()))
        convolutions = [n for n in call.graph.operators() if n in reached and op_of(n).convolves]
        if not convolutions:
            raise InputError("GradCAM finds no convolution in this model: name a layer, GradCAM(model, layer=...).")
        return info(convolutions[-1]).path or where_is(convolutions[-1]), convolutions[-1]

    def _picture(self, call: Call, start: Node, values: Any, small: Tensor) -> tuple[Tensor, Node]:
        """The input that the map is laid over, and its node."""
        reached = reached_by_relevance(start)
        read = [n for n in call.graph.inputs if n in reached and not needs_rule(n) and not masks(n, values[n])]
        fits = [n for n in read if values[n].dim() == small.dim()]
        if len(fits) != 1:
            shapes = ", ".join(str(tuple(fake_value(n).shape)) for n in read)
            raise InputError(f"GradCAM lays a map {tuple(small.shape)} over one input; the inputs are {shapes}.")
        return values[fits[0]], fits[0]

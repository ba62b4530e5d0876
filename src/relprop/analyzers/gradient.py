"""Analyzers that look at the model as a function: they ask for its value and its derivative, and for no rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.fx.node import Node

from relprop.analyzers.analyzer import Analyzer, Call
from relprop.engine.graph.run import values_of
from relprop.engine.ops.analysis import needs_rule, only_masks, reached_by_relevance
from relprop.engine.program.question import Answer
from relprop.engine.program.watch import by_input
from relprop.targets import Seed, Target

Function = Callable[[Sequence[Tensor]], Tensor]
"""Inputs and embeddings, (B, ...) each -> the explained output (B, *output), differentiable."""


class FunctionAnalyzer(Analyzer):
    """An analyzer that needs the model as a function of its floating point inputs and embeddings alone.

    Examples:
        Gradient times input, where the input is positive, in six lines:

        >>> import torch
        >>> from relprop.analyzers import FunctionAnalyzer, gradient
        >>> class PositiveEvidence(FunctionAnalyzer):
        ...     def relevance(self, function, inputs, seed):
        ...         return [x.clamp(min=0) * g for x, g in zip(inputs, gradient(function, inputs, seed))]
        >>> analyzer = PositiveEvidence(torch.nn.Linear(2, 1, bias=False))
        >>> analyzer(torch.tensor([[-1.0, 0.0]])).relevance.abs().sum().item()
        0.0
    """

    @abstractmethod
    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        """Relevance of each of the inputs, in their shapes.

        Args:
            function: inputs -> the explained output.
            inputs: floating point inputs and embeddings of token ids.
            seed: says where a derivative starts, at an explained output.
        """

    def answers(self, call: Call) -> Sequence[Answer]:
        """One answer for each target, each by `relevance`."""
        return [self._answer(call, *each) for each in zip(call.starts, call.targets, strict=True)]

    def _answer(self, call: Call, start: Node, target: Target) -> Answer:
        graph, reached = call.graph, reached_by_relevance(start)
        with torch.inference_mode(False), torch.no_grad():
            values = values_of(graph, call.inputs)
        arrivals = [n for n in graph.fx.nodes if n in reached and not needs_rule(n) and not _masks(n, values[n])]

        def function(given: Sequence[Tensor]) -> Tensor:
            output: Tensor = values_of(graph, call.inputs, dict(zip(arrivals, given, strict=True)))[start]
            return output

        with torch.inference_mode(False), torch.no_grad():
            seed = Seed(target, self._normalize_output)
            index = target.index(values[start])
            found = self.relevance(function, [values[n] for n in arrivals], seed)
        outputs = [values[o] if isinstance(o, Node) else o for o in graph.outputs]
        named = zip(graph.inputs, call.inputs, strict=True)
        relevance = dict(zip(arrivals, found, strict=True))
        return Answer(
            lambda: outputs, index, by_input(named, arrivals, relevance), amount=partial(seed.amount, values[start])
        )


def _masks(node: Node, value: Tensor) -> bool:
    """An input with -inf in it, which `check_masks` has let in, is a constant."""
    return only_masks(node) and not bool(value.isfinite().all())


def gradient(function: Function, inputs: Sequence[Tensor], seed: Seed) -> list[Tensor]:
    """`∂y/∂x` of the explained amount y for each input; times y where the seed is not normalized."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = function(leaves)
    start = seed.derivative(output.detach())
    found = torch.autograd.grad(output, leaves, start, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


class Gradient(FunctionAnalyzer):
    """`R_i = ∂y/∂x_i` of the explained amount `y` (Simonyan et al. 2014). With `normalize_output=False` times `y`."""

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        return gradient(function, inputs, seed)


class InputTimesGradient(FunctionAnalyzer):
    """`R_i = x_i ∂y/∂x_i` (Shrikumar et al. 2016); on piecewise linear networks without biases, LRP's 0-rule."""

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        return [x * g for x, g in zip(inputs, gradient(function, inputs, seed), strict=True)]

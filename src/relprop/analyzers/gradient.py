"""Analyzers that look at the model as a function: they ask for its value and its derivative, and for no rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relprop.analyzers.analyzer import Analyzer, Call
from relprop.engine.graph.graph import Graph, Node, fake_value
from relprop.engine.graph.run import values_of
from relprop.engine.ops.analysis import needs_rule, only_masks, reached_by_relevance
from relprop.engine.program.question import Answer
from relprop.engine.program.watch import by_input
from relprop.targets import Seed, Target


@dataclass(frozen=True)
class Function:
    """Inputs and embeddings, (B, ...) each -> the explained output (B, *output), differentiable.

    Attributes:
        graph: the model.
        leaves: one for each of the graph's inputs.
        arrivals: the nodes whose values are given.
        start: the node whose value is returned.
    """

    graph: Graph
    leaves: Sequence[Any]
    arrivals: Sequence[Node]
    start: Node

    def __call__(self, given: Sequence[Tensor], times: int = 1) -> Tensor:
        """The output. Of a batch that was stacked so many times, (times · B, ...), (times · B, *output)."""
        leaves = self.leaves if times == 1 else self._stacked(times)
        values = values_of(self.graph, leaves, dict(zip(self.arrivals, given, strict=True)))
        output: Tensor = values[self.start]
        return output

    def stacks(self, times: int) -> bool:
        """Whether the captured program serves a batch that is stacked so many times."""
        batch = self.graph.batch_symbol()
        return times == 1 or (
            batch is not None
            and all(_first_size(node) == batch for node in self.arrivals)
            and self.graph.serves(self._stacked(times))
        )

    def _stacked(self, times: int) -> list[Any]:
        batch, stacked = self.graph.batch_symbol(), []
        for node, leaf in zip(self.graph.inputs, self.leaves, strict=True):
            of_batch = isinstance(leaf, Tensor) and leaf.dim() and _first_size(node) == batch
            stacked.append(leaf.repeat(times, *[1] * (leaf.dim() - 1)) if of_batch else leaf)
        return stacked


def _first_size(node: Node) -> Any:
    """Symbol or number of the first dimension."""
    size = fake_value(node).shape[0]
    return size if isinstance(size, int) else size.node.expr


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
            values, seed = values_of(graph, call.inputs), Seed(target, self._normalize_output)
            arrivals = [n for n in graph.fx.nodes if n in reached and not needs_rule(n) and not masks(n, values[n])]
            function = Function(graph, call.inputs, arrivals, start)
            found = self.relevance(function, [values[n] for n in arrivals], seed)
            return answer_of(call, start, seed, values, dict(zip(arrivals, found, strict=True)))


def answer_of(
    call: Call, start: Node, seed: Seed, values: Mapping[Node, Any], relevance: Mapping[Node, Tensor]
) -> Answer:
    """Relevance of inputs and embeddings, as an answer.

    Args:
        call: what was asked.
        start: the node that the target speaks of.
        seed: the target.
        values: those of all nodes.
        relevance: node -> its relevance.
    """
    outputs = [values[o] if isinstance(o, Node) else o for o in call.graph.outputs]
    named = zip(call.graph.inputs, call.inputs, strict=True)
    inputs, index = by_input(named, list(relevance), relevance), seed.target.index(values[start])
    return Answer(lambda: outputs, index, inputs, amount=partial(seed.amount, values[start]))


def masks(node: Node, value: Tensor) -> bool:
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

    multiplies_by_inputs: bool = False

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        return gradient(function, inputs, seed)


class InputTimesGradient(FunctionAnalyzer):
    """`R_i = x_i ∂y/∂x_i` (Shrikumar et al. 2016); on piecewise linear networks without biases, LRP's 0-rule."""

    def relevance(self, function: Function, inputs: Sequence[Tensor], seed: Seed) -> Sequence[Tensor]:
        return [x * g for x, g in zip(inputs, gradient(function, inputs, seed), strict=True)]

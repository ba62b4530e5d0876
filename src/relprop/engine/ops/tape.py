"""What one call remembers: the values of nodes, and relevance on its way back.

Relevance at a node with value `a` is a `Message` of two parts that add up, `R_total = a * c + R`. The factored part `c`
costs what it costs in a plain gradient and never divides by a small number; the part `R` can carry relevance where
`a = 0`. A rule that needs one number per entry multiplies out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from relprop.engine.graph.graph import info
from relprop.engine.graph.run import made, run_node

Form = Literal["c", "R"]
Forms = frozenset[Form]

Pull = Callable[[Tensor | None], list[Tensor | None]]
"""`s -> (∂z/∂x)ᵀ s` for each input `x`; None where nothing flows."""

C: Forms = frozenset({"c"})
R: Forms = frozenset({"R"})


@dataclass(frozen=True)
class Message:
    """Relevance `a * c + R` of a node with value `a`; None stands for a part in which nothing flows."""

    c: Tensor | None = None
    R: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Nothing flows."""
        return self.c is None and self.R is None

    def __add__(self, other: Message) -> Message:
        return Message(_add(self.c, other.c), _add(self.R, other.R))

    def map(self, function: Callable[[Tensor], Tensor]) -> Message:
        """Apply a linear function to both parts."""
        return Message(
            None if self.c is None else function(self.c),
            None if self.R is None else function(self.R),
        )


def _add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None or y is None:
        return y if x is None else x
    return x + y


def masked_product(a: Tensor, c: Tensor) -> Tensor:
    """`a * c`, and 0 where `c` is 0, also where a mask put -inf."""
    return (a * c).masked_fill_(c == 0, 0)


@dataclass
class Tape:
    """Values of one forward pass, for as long as the reverse pass reads them.

    Attributes:
        values: node -> value; constants are always there.
        shapes: node -> shape of every tensor that was computed, also of those freed since.
        recorded: node -> (leaves, result) of operators that ran under autograd, whose adjoint is at hand.
        saved: node -> what its step's forward run leaves for the reverse pass in place of values.
        device: where the inputs are.
        dtype: dtype of relevance: that of the model, but never less than float32.
        widened: it is not that of the model.
        modified: modified weights, made once and kept between calls.
        sinks: node -> name -> amount of relevance kept there; None unless the call is audited.
        released: node -> values that no step in front of the node's reads.
        keeps_modified: modified weights stay from step to step, and from call to call.
        shared: several reverse passes read it, so nothing may be overwritten.
        batched: they run as one, by `torch.func.vmap`.
        differentiable: relevance is to be differentiable in inputs and parameters.
        parameters: relevance of parameters, by name; None unless it is asked for.
        positions: relevance that positions keep, by module and what keeps it, (B, T, D); None unless it is asked for.
        denominators: stabilized denominators (and biases in them) of affine layers, if it is shared.
    """

    values: dict[Node, Any]
    device: torch.device
    dtype: torch.dtype
    modified: MutableMapping[Any, Tensor] = field(default_factory=dict)
    shapes: dict[Node, torch.Size] = field(default_factory=dict)
    recorded: dict[Node, tuple[list[Tensor], Tensor]] = field(default_factory=dict)
    saved: dict[Node, Tensor] = field(default_factory=dict)
    widened: bool = False
    sinks: dict[Node, dict[str, float]] | None = None
    released: Mapping[Node, Sequence[Node]] = field(default_factory=dict)
    keeps_modified: bool = True
    shared: bool = False
    batched: bool = False
    differentiable: bool = False
    parameters: dict[str, Tensor] | None = None
    positions: dict[str, Tensor] | None = None
    denominators: dict[Any, Any] = field(default_factory=dict)

    @property
    def may_overwrite(self) -> bool:
        """What a step has just computed, or saved for itself, may hold what it computes next."""
        return self.sinks is None and not (self.shared or self.differentiable)

    def own(self, *, batched: bool) -> Tape:
        """A copy for one of several reverse passes."""
        values, recorded, saved = dict(self.values), dict(self.recorded), dict(self.saved)
        return replace(self, values=values, recorded=recorded, saved=saved, batched=batched)

    def release(self, node: Node) -> None:
        """Forget what only the step of a node and those behind it read."""
        if self.sinks is None and self.parameters is None:  # these read more values than the steps
            for done in self.released.get(node, ()):
                self.values.pop(done, None)
        self.recorded.pop(node, None)
        self.saved.pop(node, None)
        if not self.keeps_modified:
            self.modified.clear()

    def value(self, node: Node) -> Tensor:
        """A node's value in the dtype of relevance."""
        tensor: Tensor = made(self.values[node])
        return tensor if tensor.dtype == self.dtype else tensor.to(self.dtype)

    def total(self, node: Node, message: Message, part: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """`a * c + R`. Reads the node's value only if the message has a factored part.

        Args:
            part: what of the value the message is for, if not for all of it.
        """
        if message.c is None:
            assert message.R is not None, f"an empty message at {node}"
            return message.R
        value = self.value(node) if part is None else part(self.value(node))
        masked = info(node).masked or self.sinks is not None or node.op == "placeholder"  # inputs may hold NaN
        product = self._masked_product(value, message.c) if masked else value * message.c
        return product if message.R is None else product + message.R

    def _masked_product(self, a: Tensor, c: Tensor) -> Tensor:
        """`a * c`, and 0 where a mask put -inf, of which `where(c == 0, 0, a * c)` would have the derivative NaN."""
        return torch.where(a.isfinite(), a, 0) * c if self.differentiable else masked_product(a, c)

    def evaluate(self, node: Node, substitute: Mapping[Node, Any] | None = None) -> Any:
        """Run a node's operator on the values at hand, or on others in their place."""
        given = substitute or {}

        def look_up(n: Node) -> Any:
            return given[n] if n in given else made(self.values[n])

        return run_node(node, look_up)

    def record(self, node: Node, sources: Sequence[Node]) -> Tensor:
        """Run a node's operator under autograd, so that `adjoint` need not run it again."""
        leaves = [self._leaf(self.values[s]) for s in sources]
        with torch.enable_grad():
            result: Tensor = self.evaluate(node, dict(zip(sources, leaves, strict=True)))
        self.recorded[node] = (leaves, result)
        return result if self.differentiable else result.detach()

    def adjoint(self, node: Node, sources: Sequence[Node], message: Message, *, linear: bool) -> list[Message]:
        """Pull a message back through the operator's own derivative.

        Args:
            linear: the derivative does not depend on the values of `sources`, so only their shapes are needed.
        """
        if node in self.recorded:
            leaves, result = self.recorded[node]
            pull: Pull = partial(pull_back, result, leaves, create_graph=self.differentiable)
        else:
            given = [self.blank(s) if linear else self.value(s) for s in sources]
            _, pull = self.derivative(
                lambda *xs: self.evaluate(node, self._at_dtype(node, dict(zip(sources, xs, strict=True)))), given
            )
        parts = [pull(part) for part in (message.c, message.R)]
        return [Message(c, full) for c, full in zip(*parts, strict=True)]

    def derivative(self, function: Callable[..., Tensor], at: Sequence[Tensor]) -> tuple[Tensor, Pull]:
        """`z = function(*at)`, and `s -> (∂z/∂x)ᵀ s` for each argument; None where nothing flows."""
        if self.batched:  # inside of vmap, where autograd's own leaves are not to be had
            z, back = torch.func.vjp(function, *at)[:2]
            return z, lambda s: [None] * len(at) if s is None else list(back(s))
        leaves = [self._leaf(x) for x in at]
        with torch.enable_grad():
            z = function(*leaves)
        pull = partial(pull_back, z, leaves, create_graph=self.differentiable)
        return z if self.differentiable else z.detach(), pull

    def _leaf(self, x: Tensor) -> Tensor:
        """What an operator is differentiated by in the place of `x`, and by nothing else that reads `x`."""
        return x.view_as(x) if self.differentiable and x.requires_grad else x.detach().requires_grad_()

    def blank(self, node: Node) -> Tensor:
        """A tensor of a node's shape that takes no memory, for operators that only look at shapes."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shapes[node])

    def credit(self, name: str, node: Node, amount: Callable[[], Tensor]) -> None:
        """Note relevance of a parameter, shaped like it, if it is asked for.

        Args:
            node: where it comes from. It tells two parameters apart that have one name and different shapes.
        """
        if self.parameters is not None:
            _added_to(self.parameters, name, node, amount())

    def place(self, name: str, node: Node, kept: Tensor) -> None:
        """Note relevance that positions keep, (B, T, D), if it is asked for.

        Args:
            node: as in `credit`.
        """
        if self.positions is not None:
            _added_to(self.positions, name, node, kept)

    def sink(self, node: Node, name: str, amount: Callable[[], Tensor]) -> None:
        """Note relevance that a node keeps, if the call is audited."""
        if self.sinks is not None:
            kept = self.sinks.setdefault(node, {})
            kept[name] = kept.get(name, 0.0) + float(amount().double().sum())

    def _at_dtype(self, node: Node, substitute: dict[Node, Any]) -> dict[Node, Any]:
        """The other floating point arguments of a node, cast to the dtype of relevance where they are narrower."""
        for argument in node.all_input_nodes:
            value = None if argument in substitute else made(self.values.get(argument))
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != self.dtype:
                substitute[argument] = value.to(self.dtype)
        return substitute


def _added_to(notes: dict[str, Tensor], name: str, node: Node, amount: Tensor) -> None:
    """Add an amount to those of its name and shape."""
    if name in notes and notes[name].shape != amount.shape:
        name = f"{name}@{node.name}"
    notes[name] = notes[name] + amount if name in notes else amount


def pull_back(
    result: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None, *, create_graph: bool = False
) -> list[Tensor | None]:
    """`(∂result/∂leaf)ᵀ cotangent` for each leaf, to be differentiated again or not; None where nothing flows."""
    if cotangent is None:
        return [None] * len(leaves)
    return list(
        torch.autograd.grad(result, leaves, cotangent, allow_unused=True, retain_graph=True, create_graph=create_graph)
    )

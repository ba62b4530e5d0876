"""Products of data with data: every factor gets the same share of relevance, or the signals take it all.

Factored relevance makes both exact without a division: for `z = Π_k x_k` and `R = z·c`, factor `k` out of `n` gets
`R/n = x_k · (c · Π_{j≠k} x_j / n)`, which is the operator's own derivative, divided by n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, info, operator_name
from relprop.engine.ops.registry import everywhere, inherits, op_of, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, Tape
from relprop.rules import AffineRule, ProductRule, Rule

register("product", "product", nonneg=inherits, local=everywhere)
register("prod cumprod", "product", nonneg=inherits)


class ProductStep(Step):
    """`R_k = R / n` for each of the `n` factors that take part; with `n` factors each time it occurs counts."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        share = rule.share if isinstance(rule, ProductRule) else "uniform"
        if share == "signal":
            self.sources = signals(self.sources)
        alone = self._of_nodes and len(self.sources) == 1 and degree(node, self.sources[0]) == 1
        self.read(*(leaf for leaf in self.leaves if not (alone and leaf is self.sources[0])))
        if rule.divides or "R" in self.forms:
            self.read(node)
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (AffineRule, ProductRule)):
            raise cannot_serve(node, rule, "a product of data with data takes ProductRule().")
        if isinstance(rule, AffineRule) and not rule.unmodified:
            raise cannot_serve(node, rule, "a product has no weights to modify; use ProductRule() or ZeroRule().")

    def run(self, tape: Tape) -> Any:
        """A product of nodes is differentiated by hand, so that it need not be kept for that."""
        return tape.evaluate(self.node) if self._of_nodes else super().run(tape)

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        c = self.factored(message, tape)
        if self._of_nodes:
            yield from self._to_factors(c, tape)
            return
        if operator_name(self.node) in OF_ENTRIES:
            c = c / _entries(self.node, tape)
        shares = tape.adjoint(self.node, self.leaves, Message(c), linear=False)
        taking = sum(degree(self.node, s) for s in self.sources)
        for source, share in zip(self.leaves, shares, strict=True):
            if source in self.sources:
                yield source, share.map(lambda part: part / taking)

    @property
    def _of_nodes(self) -> bool:
        return operator_name(self.node) == "product"

    def _to_factors(self, c: Tensor, tape: Tape) -> Iterable[tuple[Node, Message]]:
        """`c_k = c · Π_{j≠k} x_j / n`, `d` times for a factor that is there `d` times."""
        times = {source: degree(self.node, source) for source in self.sources}
        c = c / sum(times.values())
        for source, count in times.items():
            others = list(self.node.args)
            others.remove(source)
            share = c if count == 1 else c * count
            for factor in others:
                assert isinstance(factor, Node)
                share = share * tape.value(factor)
            yield source, Message(share.sum_to_size(tape.shapes[source]))


OF_ENTRIES = {"prod", "cumprod"}
"""Products of the entries of one tensor."""


def _entries(node: Node, tape: Tape) -> Tensor:
    """How many entries of its input each entry of such a product multiplies, shaped to broadcast."""
    shape = tape.shapes[data_inputs(node)[0]]
    if operator_name(node) == "prod":
        count = shape.numel() / max(1, tape.shapes[node].numel())
        return torch.full((), count, dtype=tape.dtype, device=tape.device)
    dim = int(node.args[1]) % max(1, len(shape))  # type: ignore[arg-type]
    counts = torch.arange(1, shape.numel() + 1, dtype=tape.dtype, device=tape.device)
    return counts[: shape[dim]].reshape([-1 if d == dim else 1 for d in range(len(shape))])


def degree(node: Node, source: Node) -> int:
    """How many of a product's factors a node is: 2 in `x * x`."""
    flat = [a for argument in node.args for a in (argument if isinstance(argument, (list, tuple)) else [argument])]
    return max(1, sum(a is source for a in flat))


def signals(factors: Sequence[Node]) -> tuple[Node, ...]:
    """The factors that are least like a gate; all of them where they are alike.

    `x · silu(y)` has the signal x. In `silu(x) · sigmoid(y)`, as in squeeze-and-excitation and in an LSTM's
    `tanh(c) · sigmoid(o)`, both are activated, and the sigmoid is the gate.
    """
    ranks = [gate_rank(f) for f in factors]
    return tuple(f for f, rank in zip(factors, ranks, strict=True) if rank == min(ranks))


def gate_rank(node: Node) -> int:
    """2: computed by a sigmoid or its like, perhaps moved since; 1: by another activation; 0: neither."""
    while (rank := op_of(node).gate) is None:
        node = data_inputs(node)[0]
    return rank


def is_product(node: Node) -> bool:
    """Whether a node multiplies data with data."""
    op = op_of(node)
    if not info(node).data:
        return False
    factors = data_inputs(node)
    several = len(factors) > 1 or any(degree(node, s) > 1 for s in factors)
    return op.family == "product" or (op.bilinear and several)

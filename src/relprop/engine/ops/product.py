"""Products of data with data: every factor gets the same share of relevance, or the signals take it all.

Factored relevance makes both exact without a division: for `z = Π_k x_k` and `R = z·c`, factor `k` out of `n` gets
`R/n = x_k · (c · Π_{j≠k} x_j / n)`, which is the operator's own derivative, divided by n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from relprop.engine.graph.graph import Node, data_inputs, info, operator_name
from relprop.engine.ops.registry import inherits, lookup, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, Tape
from relprop.rules import AffineRule, EpsilonRule, ProductRule, Rule

register("product", "product", nonneg=inherits)

BILINEAR = {"mm", "bmm", "matmul", "mv", "dot", "einsum", "linear", "baddbmm", "conv1d", "conv2d", "conv3d"}
"""Operators that are affine with a constant operand, and a product of two factors without one."""


class ProductStep(Step):
    """`R_k = R / n` for each of the `n` factors that take part; with `n` factors each time it occurs counts."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        share = rule.share if isinstance(rule, ProductRule) else "uniform"
        if share == "signal":
            self.sources = signals(self.sources)
        self.read(*self.leaves)
        if isinstance(rule, EpsilonRule) or "R" in self.forms:
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

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        shares = tape.adjoint(self.node, self.leaves, Message(self.factored(message, tape)), linear=False)
        taking = sum(degree(self.node, s) for s in self.sources)
        for source, share in zip(self.leaves, shares, strict=True):
            if source in self.sources:
                yield source, share.map(lambda part: part / taking)


def degree(node: Node, source: Node) -> int:
    """How many of a product's factors a node is: 2 in `x * x`."""
    flat = [a for argument in node.args for a in (argument if isinstance(argument, (list, tuple)) else [argument])]
    return max(1, sum(a is source for a in flat))


SATURATING = {"sigmoid", "hardsigmoid", "softmax"}
"""Functions onto shares between 0 and 1, which weigh what they multiply."""

ACTIVATED = {"silu", "gelu", "tanh", "relu", "hardswish"}
RESHAPED = {"view", "reshape", "unsqueeze", "expand", "expand_as", "transpose", "permute", "squeeze", "slice",
            "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d"}  # fmt: skip
"""What leaves a gate a gate, also at another resolution."""


def signals(factors: Sequence[Node]) -> tuple[Node, ...]:
    """The factors that are least like a gate; all of them where they are alike.

    `x · silu(y)` has the signal x. In `silu(x) · sigmoid(y)`, as in squeeze-and-excitation and in an LSTM's
    `tanh(c) · sigmoid(o)`, both are activated, and the sigmoid is the gate.
    """
    ranks = [gate_rank(f) for f in factors]
    return tuple(f for f, rank in zip(factors, ranks, strict=True) if rank == min(ranks))


def gate_rank(node: Node) -> int:
    """2: computed by a sigmoid or its like, perhaps moved since; 1: by another activation; 0: neither."""
    while operator_name(node) in RESHAPED:
        node = data_inputs(node)[0]
    name = operator_name(node)
    return 2 if name in SATURATING else 1 if name in ACTIVATED else 0


def is_product(node: Node) -> bool:
    """Whether a node multiplies data with data."""
    op = lookup(node)
    if op is None or not info(node).data:
        return False
    return (
        op.family == "product"
        or (operator_name(node) in BILINEAR and len(data_inputs(node)) > 1)
        or (operator_name(node) in BILINEAR and any(degree(node, s) > 1 for s in data_inputs(node)))
    )

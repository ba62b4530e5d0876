"""Rotary positions, `z = x · cos + rot(x) · sin` (Su et al. 2021): products of data with what turns it.

They are known by what they compute, in whatever model: the sum of two products, each of entries of one tensor, moved
and maybe negated, with a factor that is no data and that differs between positions and between features; or a product
of pairs with complex numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, fake_value, info, operator_name, shape_of
from relprop.engine.ops.affine import AffineStep, affine_map
from relprop.engine.ops.positions import place_turned
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.step import Plan, Preference, Step
from relprop.engine.ops.tape import C, Message, Tape, masked_product
from relprop.rules import ProductRule, Rule

SINK = "rotary"


class RotaryStep(Step):
    """`R_x = R / 2`, and the position keeps as much (PA-LRP, Bakish et al. 2025).

    Of `R = z · c`, where `z = x · w`, data get `x · (w c / 2)`.
    """

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.map = affine_map(node)
        (self.factor,) = (n for n in node.all_input_nodes if not info(n).data)
        if "R" in self.forms or rule.divides:
            self.read(node)
        self.reads_for_positions = frozenset({node})
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not (isinstance(rule, ProductRule) and rule.rope == "half" and is_rotated(node)):
            AffineStep.check(node, rule)

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        half = self.factored(message, tape) / 2

        def kept() -> Tensor:
            return masked_product(tape.value(self.node), half)

        tape.sink(self.node, SINK, kept)
        if tape.positions is not None:
            place_turned(tape, self.node, self.factor, kept())
        return [(x, Message(c)) for x, c in zip(self.map.xs, self.map.pull(tape, None, half), strict=True)]


def is_rotated(node: Node) -> bool:
    """Whether a node is one of the products that a rotary position consists of."""
    if operator_name(node) == "complex_linear":
        return turning_factor(node) is not None
    return any(_turns(reader) for reader in node.users)


def turning_factor(product: Node) -> Node | None:
    """What a product multiplies data with, if it is no data and has positions and features."""
    name, factors = operator_name(product), [n for n in product.all_input_nodes if not info(n).data]
    if name not in {"scale", "complex_linear"} or len(factors) != 1:
        return None
    if name == "complex_linear" and not _is_complex(factors[0]):
        return None
    return factors[0] if sum(size != 1 for size in shape_of(factors[0]) or ()) > 1 else None


def _turns(total: Node) -> bool:
    """A sum of two such products of one tensor's entries."""
    products = list(total.args) if operator_name(total) == "add" else []
    if len(products) != 2 or not all(isinstance(p, Node) and turning_factor(p) is not None for p in products):
        return False
    origins: set[Node] = set().union(*(_origins(x) for p in products for x in data_inputs(p)))  # type: ignore[arg-type]
    return len(origins) == 1


def _origins(node: Node) -> set[Node]:
    """The tensors whose entries these are, only moved, or multiplied by a number such as −1."""
    found, seen, waiting = set[Node](), {node}, [node]
    while waiting:
        current = waiting.pop()
        moved = op_of(current).family == "movement" and not info(current).entry
        if not moved and not _times_a_number(current):
            found.add(current)
            continue
        waiting += [n for n in data_inputs(current) if n not in seen]
        seen.update(waiting)
    return found


def _times_a_number(node: Node) -> bool:
    factors: list[Any] = [n for n in node.all_input_nodes if not info(n).data]
    return operator_name(node) == "scale" and len(factors) == 1 and operator_name(factors[0]) == "scalar"


def _is_complex(node: Node) -> bool:
    value = fake_value(node)
    return isinstance(value, Tensor) and value.is_complex()

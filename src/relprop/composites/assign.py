"""From what a composite says of layers to the rule of each operator, and to the output that is explained."""

from __future__ import annotations

from collections.abc import Sequence

from relprop.composites.composite import Composite
from relprop.engine.graph.graph import Node, data_inputs, info
from relprop.engine.layers.kinds import ProductLayer
from relprop.engine.layers.layers import Layer
from relprop.engine.ops import lookup
from relprop.engine.ops.recurrent import RECURRENT
from relprop.engine.ops.rotary import is_rotated
from relprop.engine.ops.units import unit_of
from relprop.errors import CompositeError
from relprop.rules import LayerNormRule, PassRule, ProductRule, Rule, ZeroRule


def rules_of_layers(composite: Composite | Sequence[Rule], layers: Sequence[Layer]) -> list[Rule]:
    """The rule of each row: what a composite says, or one rule each; a row that was fused away has none of its own.

    Raises:
        CompositeError: another number of rules than of rows that take one, or a composite that does not fit.
    """
    if isinstance(composite, Composite):
        return composite.assign(layers)
    own = [layer for layer in layers if layer.fused_into is None]
    if len(composite) != len(own):
        table = "\n".join(f"  {layer.row}" for layer in own)
        given = "There is 1 rule" if len(composite) == 1 else f"There are {len(composite)} rules"
        taking = "1 layer that takes one" if len(own) == 1 else f"{len(own)} layers that take one"
        raise CompositeError(f"{given}, but the model has {taking}:\n{table}")
    rules = iter(composite)
    return [next(rules) if layer.fused_into is None else PassRule() for layer in layers]


def unit_rule(layer: Layer) -> Rule | None:
    """The rule that the layer's module was registered with."""
    units = [unit for node in layer.nodes if (unit := unit_of(node)) is not None]
    return units[0].rule if units else None


def node_rule(node: Node, rule: Rule) -> Rule:
    """A layer's rule for one of its operators: padding only moves values, an LN-rule's affine part gets the 0-rule."""
    op = lookup(node)
    family = op.family if op is not None else ""
    if family == "movement":
        return PassRule()
    if isinstance(rule, LayerNormRule) and family in {"affine", "sum"}:
        return ZeroRule(stabilizer=rule.stabilizer)
    by_constant = info(node).operator in ProductLayer.operators and len(data_inputs(node)) == 1
    if isinstance(rule, ProductRule) and family in {"affine", "sum"} and by_constant:
        return rule if rule.rope == "half" and is_rotated(node) else ZeroRule()  # the other factor is a constant
    if isinstance(rule, ProductRule) and info(node).operator in RECURRENT and family != "gate":
        return ZeroRule()  # it speaks of the gates
    return rule

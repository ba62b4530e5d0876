"""From what a composite says of layers to the rule of each operator, and to the output that is explained."""

from __future__ import annotations

from relprop.engine.graph.graph import Node, data_inputs, info
from relprop.engine.layers.kinds import ProductLayer
from relprop.engine.layers.layers import Layer
from relprop.engine.ops import lookup
from relprop.engine.ops.recurrent import RECURRENT
from relprop.engine.ops.units import unit_of
from relprop.rules import LayerNormRule, PassRule, ProductRule, Rule, ZeroRule


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
        return ZeroRule()  # the other factor is a constant
    if isinstance(rule, ProductRule) and info(node).operator in RECURRENT and family != "gate":
        return ZeroRule()  # it speaks of the gates
    return rule

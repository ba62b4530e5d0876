"""From what a composite says of layers to the rule of each operator, and to the output that is explained."""

from __future__ import annotations

from relprop.errors import InputError
from relprop.graph import Graph, Node, data_inputs, info
from relprop.layer_types import ProductLayer
from relprop.layers import Layer
from relprop.ops import lookup
from relprop.ops.recurrent import RECURRENT
from relprop.rules import LayerNormRule, PassRule, ProductRule, Rule, ZeroRule
from relprop.units import unit_of


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


def explained_output(graph: Graph) -> Node:
    """The output that is explained: the one called `logits` or `out` if there is one, else the first."""
    carrying = [o for o in graph.outputs if isinstance(o, Node) and info(o).data]
    if not carrying:
        raise InputError(
            "No output of the model depends on a floating point input or on embedded token ids, so there is no "
            "relevance to propagate. Integers may have to be converted: x.float()."
        )
    names = output_names(graph)
    for wanted in ("logits", "out"):
        for name, output in zip(names, graph.outputs, strict=True):
            if name == wanted and output in carrying:
                return carrying[carrying.index(output)]
    return carrying[0]


def output_names(graph: Graph) -> list[str]:
    spec = graph.out_spec
    context = getattr(spec, "context", None)
    keys = context if isinstance(context, (list, tuple)) else []
    names = [str(k) for k in keys if isinstance(k, str)]
    return names if len(names) == len(graph.outputs) else [""] * len(graph.outputs)

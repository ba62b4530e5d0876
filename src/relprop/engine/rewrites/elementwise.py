"""Activations that a model spells out, such as `0.5 * x * (1 + tanh(...))`, lifted to one operator.

A product whose factors are all elementwise functions of one tensor `x` is itself an elementwise function of `x`, so
relevance passes: taking it apart factor by factor would send part of it to constants.
"""

from __future__ import annotations

from relprop.engine.graph.graph import Graph, Node, annotate, data_inputs, fake_value, info, operator_name, shape_of
from relprop.engine.ops.analysis import analyze_operator, remove_dead
from relprop.engine.ops.registry import op_of
from relprop.engine.ops.units import Unit
from relprop.engine.rewrites.registered import extract
from relprop.engine.rewrites.rewriting import replace
from relprop.rules import PassRule

ELEMENTWISE = {"scale", "add", "product"}


def lift_elementwise(graph: Graph) -> Graph:
    """Replace spelled-out activations by one operator each."""
    order = {node: i for i, node in enumerate(graph.fx.nodes)}
    for node in reversed(list(graph.operators())):
        if operator_name(node) == "product" and info(node).data and node.users:
            found = _function_of_one(node, order)
            if found is not None:
                _replace(graph, node, *found)
    return remove_dead(graph)


def _function_of_one(product: Node, order: dict[Node, int]) -> tuple[Node, list[Node]] | None:
    """The tensor that a product is an elementwise function of, and the operators in between; None if there is none."""
    inside, frontier = [product], set(data_inputs(product))
    while len(frontier) > 1:
        latest = max(frontier, key=order.__getitem__)
        if not _is_elementwise(latest, product):
            return None
        inside.append(latest)
        frontier = (frontier - {latest}) | set(data_inputs(latest))
    members = set(inside)
    if not frontier or any(user not in members for node in inside[1:] for user in node.users):
        return None
    (source,) = frontier
    if shape_of(source) != shape_of(product):
        return None
    return source, sorted(inside, key=order.__getitem__)


def _is_elementwise(node: Node, product: Node) -> bool:
    op = op_of(node)
    known = op.step is None and (op.family == "activation" or operator_name(node) in ELEMENTWISE)
    return known and shape_of(node) == shape_of(product)


def _replace(graph: Graph, product: Node, source: Node, inside: list[Node]) -> None:
    """Put one operator in the place of several; its constants stay arguments."""
    others = [a for n in inside for a in n.all_input_nodes if a not in inside and a is not source]
    inputs = [source, *dict.fromkeys(others)]
    kind = info(product).module_type
    name = kind.__name__ if kind is not None and info(product).path else "elementwise"
    unit = Unit(name, extract(inside, inputs, product), PassRule(), family="activation")
    with graph.fx.inserting_after(product):
        node = graph.fx.call_function(unit, tuple(inputs))
    node.meta |= {"val": fake_value(product), "nn_module_stack": product.meta.get("nn_module_stack")}
    node.meta["relprop"] = info(product)
    annotate(node, operator="elementwise")
    analyze_operator(node)
    replace(graph, product, node)

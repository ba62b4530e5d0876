"""What the graph proves about its nodes: which carry data, which are constants, which are never negative."""

from __future__ import annotations

from collections.abc import Iterator

from relprop.graph import Graph, Node, annotate, data_inputs, info, is_floating
from relprop.ops.registry import lookup


def analyze(graph: Graph) -> Graph:
    """Set `data`, `static` and `nonneg` on every node, in order of execution."""
    inputs = set(graph.inputs)
    for node in graph.fx.nodes:
        if node.op == "placeholder":
            is_input = node in inputs
            annotate(node, data=is_input and is_floating(node), static=not is_input)
        elif node.op == "call_function":
            _analyze_operator(node)
    return graph


def _analyze_operator(node: Node) -> None:
    arguments = node.all_input_nodes
    static = all(info(a).static for a in arguments)
    op = lookup(node)
    stops = op is not None and op.family == "source"
    data = not static and not stops and any(info(a).data for a in arguments) and is_floating(node)
    signs = [info(a).nonneg for a in arguments if info(a).data]
    annotate(node, static=static, data=data, nonneg=bool(op and op.nonneg(node, signs)))


def remove_dead(graph: Graph) -> Graph:
    """Erase operators whose result nobody reads."""
    for node in reversed(list(graph.fx.nodes)):
        if node.op == "call_function" and not node.users:
            graph.fx.erase_node(node)
    return graph


def reached_by_relevance(explained: Node) -> set[Node]:
    """The data nodes that relevance can come to from an output: where rules are needed."""
    reached: set[Node] = set()
    waiting = [explained] if info(explained).data else []
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(data_inputs(node))
    return reached


def unexplained(graph: Graph, reached: set[Node]) -> Iterator[Node]:
    """Operators that relevance would reach and no family explains."""
    for node in graph.fx.nodes:
        if node in reached and node.op == "call_function" and lookup(node) is None:
            yield node

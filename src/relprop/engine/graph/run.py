"""A captured graph, run as it is, or one of its operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from relprop.engine.graph.graph import Graph, Node


def run_node(node: Node, value: Callable[[Node], Any]) -> Any:
    """What a node's operator makes of its arguments, with `value(n)` in the place of each node `n` among them."""
    assert callable(node.target)
    return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))


def evaluate(graph: Graph, leaves: Sequence[Any]) -> Any:
    """Run a graph as it is, with the live parameters, under whatever autograd mode is on."""
    values: dict[Node, Any] = dict(zip(graph.inputs, leaves, strict=True))
    for node in graph.fx.nodes:
        if node.op == "placeholder":
            values.setdefault(node, graph.tensors.get(node.name))
        elif node.op == "call_function":
            values[node] = run_node(node, values.__getitem__)
    outputs = [values[o] if isinstance(o, Node) else o for o in graph.outputs]
    return pytree.tree_unflatten(outputs, graph.out_spec)

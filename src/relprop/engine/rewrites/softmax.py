"""The softmax that a model ends in."""

from __future__ import annotations

from typing import Any

from torch import nn

from relprop.engine.graph.graph import Graph, Node, operator_name
from relprop.engine.rewrites.rewriting import positional

SOFTMAX = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)


SOFTMAX_OPERATORS = {"softmax", "log_softmax", "_softmax", "_log_softmax"}


def strip_graph(graph: Graph) -> Graph:
    """Leave out the softmax that each output comes from; a graph without one stays as it is."""
    for output in graph.outputs:
        softmax = output_softmax(output)
        if softmax is not None:
            softmax.replace_all_uses_with(positional(softmax)[0])
            graph.fx.erase_node(softmax)
    return graph


def output_softmax(output: Any) -> Node | None:
    """The softmax that an output comes from, with nothing but reshaping in between."""
    node = output
    while isinstance(node, Node) and operator_name(node) in {
        "view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "flatten",
    }:
        node = node.args[0]
    return node if isinstance(node, Node) and operator_name(node) in SOFTMAX_OPERATORS else None

"""Regions of a captured model that run under a setting of their own, put back into the graph around them.

`with torch.autocast(..., enabled=False)` and `with torch.no_grad()` arrive as one operator that calls a graph. Nothing
is captured under autocast or with gradients, so such a region computes what its operators compute without it.
"""

from __future__ import annotations

import operator

import torch
import torch._higher_order_ops.wrap  # torch 2.6 enters the two into torch.ops only then
from torch.fx import GraphModule, Node

AUTOCAST = torch.ops.higher_order.wrap_with_autocast
GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled


def inline_regions(module: GraphModule) -> None:
    """Replace each region by its operators. One that switches autocast on is left to `make_functional`."""
    for node in list(module.graph.nodes):
        region = _region(module, node)
        if region is None:
            continue
        called, body, inputs = region
        inline_regions(body)
        places = [n for n in body.graph.nodes if n.op == "placeholder"]
        values: dict[Node, Node] = dict(zip(places, inputs, strict=True))
        with module.graph.inserting_before(node):
            outputs = module.graph.graph_copy(body.graph, values)
        for reader in list(node.users):
            assert reader.target is operator.getitem
            reader.replace_all_uses_with(outputs[reader.args[1]])  # type: ignore[index]
            module.graph.erase_node(reader)
        module.graph.erase_node(node)
        if not called.users:
            module.graph.erase_node(called)
    module.recompile()


def _region(module: GraphModule, node: Node) -> tuple[Node, GraphModule, tuple[Node, ...]] | None:
    """The node of the graph that a node calls, this graph, and what with; None where no region can be put back."""
    harmless = node.target is GRADIENTS or (node.target is AUTOCAST and node.args[2] is False)
    if node.op != "call_function" or not harmless:
        return None
    at = next(i for i, a in enumerate(node.args) if isinstance(a, Node) and a.op == "get_attr")
    called = node.args[at]
    assert isinstance(called, Node)
    body = module.get_submodule(str(called.target))
    assert isinstance(body, GraphModule)
    return called, body, node.args[at + 1 :]  # type: ignore[return-value]

"""Batch norm fused, exactly, into the convolution, transposed convolution or linear layer in front of it."""

from __future__ import annotations

from relprop import functions as f
from relprop.analysis import analyze, remove_dead
from relprop.canonize.rewriting import insert
from relprop.graph import Graph, Node, annotate, info, operator_name, shape_of

FUSABLE = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}


def fuse_batch_norms(graph: Graph) -> Graph:
    """`BN(W a + b) = (γ/σ W) a + γ/σ (b − μ) + β`, wherever the graph says that one follows the other."""
    for node in list(graph.fx.nodes):
        layer = _fusable_into(node)
        if layer is not None:
            node.replace_all_uses_with(_fuse(graph, layer, node))
    return analyze(remove_dead(graph))


def _fusable_into(node: Node) -> Node | None:
    layer = node.args[0] if "channels" in node.meta else None
    if not isinstance(layer, Node) or operator_name(layer) not in FUSABLE or len(layer.users) != 1:
        return None
    weight = layer.args[1]
    if not isinstance(weight, Node) or not info(weight).static:
        return None
    two_dimensional = len(shape_of(layer) or ()) == 2  # else the channels of BN are not the features of linear
    return layer if operator_name(layer) != "linear" or two_dimensional else None


def _fuse(graph: Graph, layer: Node, norm: Node) -> Node:
    scaling, shift = norm.meta["channels"]
    transposed = "transpose" in operator_name(layer)
    groups = layer.args[6] if transposed and len(layer.args) > 6 else 1
    old_bias = layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")
    weight = insert(graph, norm, f.fused_weight, layer.args[1], scaling, 1 if transposed else 0, groups)
    bias = insert(graph, norm, f.fused_bias, old_bias, scaling, shift)
    kwargs = {k: v for k, v in layer.kwargs.items() if k != "bias"}
    fused = insert(graph, norm, layer.target, layer.args[0], weight, bias, *layer.args[3:], like=norm, **kwargs)  # type: ignore[arg-type]
    kept = {name: getattr(info(layer), name) for name in ("path", "call", "module_type", "operator", "origin")}
    annotate(fused, **kept, aliases=(*info(layer).aliases, info(norm).path))
    return fused

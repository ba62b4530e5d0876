"""Batch norm fused, exactly, into convolutions, transposed convolutions and linear layers next to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, info, operator_name, shape_of
from relprop.engine.ops.analysis import analyze, remove_dead
from relprop.engine.rewrites.rewriting import insert

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
FUSABLE = {*CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}


def fuse_batch_norms(graph: Graph, *, thresholds: bool = False) -> Graph:
    """Fuse every batch norm with fixed statistics (scale `s = γ/σ`, shift `t = β − μγ/σ`) that a neighbour can take in.

        behind a layer          s (W a + b) + t = (s W) a + (s b + t)
        behind a concatenation  of such layers: each takes its channels' part
        in front of a layer     W (s a + t) + b = (W s) a + (W t + b), if the layer pads nothing

    Args:
        thresholds: also take apart norm, ReLU, layer (DenseNet), as `relu(s a + t) = s max(a, −t/s) + t` where `s > 0`,
            and with min where `s < 0` (Hui & Binder 2019; Pahde et al. 2023).
    """
    for node in list(graph.fx.nodes):
        if "channels" not in node.meta:
            continue
        for fuse in (_split_over_branches, _into_previous, _into_next, *([_over_relu] if thresholds else [])):
            if fuse(graph, node):
                break
    return analyze(remove_dead(graph))


def _is_fusable(layer: Any) -> bool:
    """The layer's weight is constant, and its channels are those of a batch norm next to it."""
    if not isinstance(layer, Node) or operator_name(layer) not in FUSABLE:
        return False
    weight = layer.args[1]
    if not isinstance(weight, Node) or not info(weight).static:
        return False
    return operator_name(layer) != "linear" or len(shape_of(layer) or ()) == 2


def _into_previous(graph: Graph, norm: Node) -> bool:
    layer = norm.args[0]
    if not isinstance(layer, Node) or not _is_fusable(layer) or len(layer.users) != 1:
        return False
    norm.replace_all_uses_with(_scaled(graph, layer, norm, norm.meta["channels"], like=norm, alias=True))
    return True


def _scaled(graph: Graph, layer: Node, norm: Node, channels: Sequence[Node], *, like: Node, alias: bool) -> Node:
    """The layer with scale and shift in its weight and bias; as an alias its output is the norm's."""
    scaling, shift = channels
    transposed = "transpose" in operator_name(layer)
    groups = layer.args[6] if transposed and len(layer.args) > 6 else 1
    weight = insert(graph, norm, f.fused_weight, layer.args[1], scaling, 1 if transposed else 0, groups)
    bias = insert(graph, norm, f.fused_bias, _bias(layer), scaling, shift)
    return _with(graph, norm, layer, norm, layer.args[0], weight, bias, like=like, alias=alias)


def _with(
    graph: Graph, before: Node, layer: Node, norm: Node, x: Any, weight: Node, bias: Node, *, like: Node, alias: bool
) -> Node:
    """The layer with other parameters, known to have taken the norm in."""
    kwargs = {k: v for k, v in layer.kwargs.items() if k != "bias"}
    new = insert(graph, before, layer.target, x, weight, bias, *layer.args[3:], like=like, **kwargs)  # type: ignore[arg-type]
    kept = {name: getattr(info(layer), name) for name in ("path", "call", "module_type", "operator", "origin")}
    known, path = info(layer), info(norm).path
    annotate(
        new,
        **kept,
        aliases=(*known.aliases, path) if alias else known.aliases,
        absorbed=known.absorbed if alias else (*known.absorbed, path),
    )
    return new


def _bias(layer: Node) -> Any:
    return layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")


def _split_over_branches(graph: Graph, norm: Node) -> bool:
    """`BN(cat(a, b))` as `cat(BN_a(a), BN_b(b))`, where `a` and `b` are layers that only the concatenation reads."""
    cat = norm.args[0]
    if not isinstance(cat, Node) or operator_name(cat) != "cat" or len(cat.users) != 1:
        return False
    dim = cat.args[1] if len(cat.args) > 1 else 0
    branches: list[Any] = list(cat.args[0])  # type: ignore[arg-type]
    rank = len(shape_of(cat) or ())
    if dim not in (1, 1 - rank) or not all(_is_fusable(b) and len(b.users) == 1 for b in branches):
        return False
    parts, start = [], 0
    for branch in branches:
        size = (shape_of(branch) or ())[1]
        assert size is not None
        own = [insert(graph, norm, torch.narrow, c, 0, start, size) for c in norm.meta["channels"]]
        parts.append(_scaled(graph, branch, norm, own, like=branch, alias=False))
        start += size
    norm.replace_all_uses_with(insert(graph, norm, cat.target, parts, dim, like=norm))  # type: ignore[arg-type]
    return True


def _into_next(graph: Graph, norm: Node) -> bool:
    layer = _only_reader(norm)
    if layer is None or layer.args[0] is not norm or not _takes_scaled_inputs(layer):
        return False
    _absorb(graph, layer, norm, norm.args[0], *norm.meta["channels"])
    return True


def _absorb(graph: Graph, layer: Node, norm: Node, x: Any, scaling: Node, shift: Node) -> None:
    groups = int(layer.args[6]) if operator_name(layer) in CONVOLUTIONS and len(layer.args) > 6 else 1  # type: ignore[arg-type]
    weight = insert(graph, layer, f.weight_of_scaled, layer.args[1], scaling, groups)
    bias = insert(graph, layer, f.bias_of_shifted, layer.args[1], _bias(layer), shift, groups)
    layer.replace_all_uses_with(_with(graph, layer, layer, norm, x, weight, bias, like=layer, alias=False))


def _only_reader(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _takes_scaled_inputs(layer: Node) -> bool:
    """A scale and a shift per input channel can move into the layer: it pads nothing, as padding is not shifted."""
    if operator_name(layer) == "linear":
        return _is_fusable(layer)
    padding = layer.args[4] if len(layer.args) > 4 else layer.kwargs.get("padding", 0)
    unpadded = padding == "valid" or padding == 0 or (isinstance(padding, (list, tuple)) and not any(padding))
    return operator_name(layer) in CONVOLUTIONS and unpadded and _is_fusable(layer)


def _over_relu(graph: Graph, norm: Node) -> bool:
    """norm, ReLU, (spatial mean,) layer as a ReLU with thresholds and a layer with other parameters."""
    relu = _only_reader(norm)
    if relu is None or operator_name(relu) != "relu":
        return False
    last, layer = relu, _only_reader(relu)
    while layer is not None and _keeps_channels(layer):
        last, layer = layer, _only_reader(layer)
    if layer is None or layer.args[0] is not last or not _takes_scaled_inputs(layer):
        return False
    scaling, shift = norm.meta["channels"]
    clipped = insert(graph, relu, f.clip_at_threshold, norm.args[0], scaling, shift, like=relu)
    annotate(clipped, operator="relu")
    effective = insert(graph, layer, f.shift_behind_threshold, scaling, shift)
    relu.replace_all_uses_with(clipped)
    _absorb(graph, layer, norm, layer.args[0], scaling, effective)
    return True


def _keeps_channels(node: Node) -> bool:
    """Averages over space, and flattening of what has no space left: a shift per channel goes through."""
    if operator_name(node) in {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}:
        return True
    source = node.args[0]
    shape = (shape_of(source) or ()) if isinstance(source, Node) else ()
    return operator_name(node) == "flatten" and len(shape) > 2 and all(n == 1 for n in shape[2:])

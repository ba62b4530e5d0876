"""Normalizations rewritten: fixed statistics make a `scale`, statistics of the input `normalize` and a `scale`."""

from __future__ import annotations

import operator
from functools import partial

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, fake_value, shape_of
from relprop.engine.rewrites.fusing import fixed_statistics
from relprop.engine.rewrites.rewriting import Lowering, arguments, insert, positional


def _batch_norm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    mean, variance, eps = given["running_mean"], given["running_var"], float(given["eps"])
    rank = len(shape_of(node) or ())
    if mean is None or variance is None or given.get("training", given.get("use_input_stats", False)):
        normalized = insert(graph, node, f.normalize, x, [0, *range(2, rank)], 0, eps, like=node)
        return _affine(graph, node, normalized, weight, bias, rank - 2)
    channels = fixed_statistics(partial(insert, graph, node, like=mean), weight, bias, mean, variance, eps)
    return _affine(graph, node, x, channels.scaling, channels.shift, rank - 2)


def _native_batch_norm(graph: Graph, node: Node) -> Node | None:
    """`(output, saved mean, saved std)`, left behind by PyTorch's own functionalization: only the output is read."""
    for reader in list(node.users):
        if reader.target is operator.getitem and positional(reader)[1] == 0:
            node.meta["val"] = fake_value(reader)
            new = _batch_norm(graph, node)
            if new is not None:
                reader.replace_all_uses_with(new)
    return None


def _affine(graph: Graph, node: Node, x: Node, weight: Node | None, bias: Node | None, trailing: int) -> Node:
    """Learned scale and shift per channel; `trailing` dimensions follow the channels."""
    if weight is None and bias is None:
        return x
    if weight is None:
        assert bias is not None
        return insert(graph, node, f.add, x, _channels(graph, node, bias, trailing), like=node, coefficients=(1, 1))
    shift = None if bias is None else _channels(graph, node, bias, trailing)
    return insert(graph, node, f.scale, x, _channels(graph, node, weight, trailing), shift, like=node)


def _channels(graph: Graph, node: Node, t: Node, trailing: int) -> Node:
    return insert(graph, node, f.as_channels, t, trailing) if trailing > 0 else t


def _layer_norm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    rank = len(shape_of(node) or ())
    dims = list(range(rank - len(given["normalized_shape"]), rank))
    normalized = insert(graph, node, f.normalize, given["input"], dims, 0, float(given["eps"]), like=node)
    return _affine(graph, node, normalized, given["weight"], given["bias"], 0)


def _group_norm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    rank = len(shape_of(node) or ())
    normalized = insert(
        graph,
        node,
        f.normalize,
        given["input"],
        [-1],
        int(given["num_groups"]),
        float(given["eps"]),
        like=node,
    )
    return _affine(graph, node, normalized, given["weight"], given["bias"], rank - 2)


def _instance_norm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    if not given["use_input_stats"]:
        return _batch_norm(graph, node)
    shape = shape_of(node) or ()
    channels = shape[1]
    assert channels is not None
    normalized = insert(graph, node, f.normalize, given["input"], [-1], channels, float(given["eps"]), like=node)
    return _affine(graph, node, normalized, given["weight"], given["bias"], len(shape) - 2)


def _rms_norm(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    value = fake_value(node)
    eps = given.get("eps")
    eps = float(eps) if eps is not None else torch.finfo(value.dtype).eps
    rank = len(shape_of(node) or ())
    dims = list(range(rank - len(given["normalized_shape"]), rank))
    normalized = insert(graph, node, f.normalize, given["input"], dims, 0, eps, False, like=node)
    return _affine(graph, node, normalized, given["weight"], None, 0)


NORMS: dict[str, Lowering] = {
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _native_batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
}

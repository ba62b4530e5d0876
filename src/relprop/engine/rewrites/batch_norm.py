"""Batch norm fused, exactly, into convolutions, transposed convolutions and linear layers next to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, annotate, info, operator_name, shape_of
from relprop.engine.ops.analysis import remove_dead
from relprop.engine.ops.registry import TAUGHT
from relprop.engine.rewrites.channelwise import Norm, norm_at, only_reader
from relprop.engine.rewrites.fusing import Channels, Fusable, pads
from relprop.engine.rewrites.rewriting import arguments, called, changed, insert, positional, replace

SPATIAL = {"linear": 0} | {f"conv{kind}{d}d": d for kind in ("", "_transpose") for d in (1, 2, 3)}
"""Layers that can take a batch norm in -> how many dimensions follow their channels."""


@dataclass(frozen=True)
class FuseBatchNorm:
    """Batch norms with fixed statistics become part of the layers next to them; scale `s = γ/σ`, shift `t = β − μγ/σ`.

        behind a layer          s (W a + b) + t = (s W) a + (s b + t)
        behind a concatenation  of such layers: each takes its channels' part
        in front of a layer     W (s a + t) + b = (W s) a + (W t + b), if the layer pads nothing

    A frozen batch norm that is spelled out, as a scale and a shift per channel by constants, is one too.

    Args:
        thresholds: also take apart norm, ReLU, layer (DenseNet), as `relu(s a + t) = s max(a, −t/s) + t` where `s > 0`,
            and with min where `s < 0` (Hui & Binder 2019; Pahde et al. 2023).
    """

    thresholds: bool = False

    def __call__(self, graph: Graph) -> Graph:
        ways = (_split_over_branches, _into_previous, _into_next, *([_over_relu] if self.thresholds else []))
        seen: set[Node] = set()
        for node in list(graph.operators()):
            norm = norm_at(node) if node.users and node not in seen else None
            if norm is not None:
                seen.update(link.node for link in norm.links)
                any(fuse(graph, norm) for fuse in ways)
        return remove_dead(graph)


def fusable(layer: Node) -> Fusable | None:
    """What a layer says of itself to `fusing`; None if its weight is no constant, or a user taught what it is."""
    name = operator_name(layer)
    if name not in SPATIAL or TAUGHT in layer.meta:
        return None
    given = arguments(layer)
    before, after = shape_of(given["input"]), shape_of(layer)
    if not info(given["weight"]).static or before is None or after is None or len(after) != 2 + SPATIAL[name]:
        return None
    return Fusable(
        inputs=before[1],
        outputs=after[1],
        transposed="transpose" in name,
        groups=given.get("groups", 1),
        pads=pads(given.get("padding", 0)),
    )


def _into_previous(graph: Graph, norm: Norm) -> bool:
    layer = norm.source
    kind = fusable(layer)
    if kind is None or not kind.takes_behind(norm.size) or only_reader(layer) is None:
        return False
    channels = norm.channels(graph, norm.last)
    new = _fused(graph, norm.last, layer, kind.behind, channels, like=norm.last)
    path = _module(norm, layer)
    annotate(new, **({"aliases": (*info(layer).aliases, path)} if path else {"absorbed": (*info(layer).absorbed, "")}))
    replace(graph, norm.last, new)
    return True


def _split_over_branches(graph: Graph, norm: Norm) -> bool:
    """`BN(cat(a, b))` as `cat(BN_a(a), BN_b(b))`, where `a` and `b` are layers that only the concatenation reads."""
    cat = norm.source
    if operator_name(cat) != "cat" or only_reader(cat) is None:
        return False
    given = arguments(cat)
    branches, rank = list(given["tensors"]), len(shape_of(cat) or ())
    kinds = [fusable(b) if isinstance(b, Node) and only_reader(b) is not None else None for b in branches]
    if given["dim"] not in (1, 1 - rank) or len(set(branches)) < len(branches) or None in kinds:
        return False
    channels = norm.channels(graph, norm.last)
    parts, start = [], 0
    for branch, kind in zip(branches, kinds, strict=True):
        assert kind is not None
        assert kind.outputs is not None
        own = (insert(graph, norm.last, torch.narrow, c, 0, start, kind.outputs) for c in channels)
        part = _fused(graph, norm.last, branch, kind.behind, Channels(*own), like=branch)
        annotate(part, absorbed=(*info(branch).absorbed, _module(norm, branch)))
        parts.append(part)
        start += kind.outputs
    replace(graph, norm.last, insert(graph, norm.last, called(cat), parts, given["dim"], like=norm.last))
    return True


def _into_next(graph: Graph, norm: Norm) -> bool:
    layer = _taking_layer(norm.last, norm)
    if layer is None or not norm.stands_alone:
        return False
    channels = norm.channels(graph, layer)
    _absorb(graph, layer, norm.source, channels, _module(norm, layer))
    return True


def _over_relu(graph: Graph, norm: Norm) -> bool:
    """norm, ReLU, (spatial mean,) layer as a ReLU with thresholds and a layer with other parameters."""
    relu = only_reader(norm.last)
    if relu is None or operator_name(relu) != "relu" or not norm.stands_alone:
        return False
    last, following = relu, only_reader(relu)
    while following is not None and _keeps_channels(following):
        last, following = following, only_reader(following)
    layer = _taking_layer(last, norm)
    if layer is None:
        return False
    channels, path = norm.channels(graph, relu), _module(norm, layer)
    effective = insert(graph, layer, f.shift_behind_threshold, *channels)
    clipped = insert(graph, relu, f.clip_at_threshold, norm.source, *channels, like=relu)
    annotate(clipped, operator="relu")
    replace(graph, relu, clipped)
    _absorb(graph, layer, arguments(layer)["input"], Channels(channels.scaling, effective), path)
    return True


def _taking_layer(node: Node, norm: Norm) -> Node | None:
    """The one reader of a node, if it is a layer that can take in a norm in front of it."""
    layer = only_reader(node)
    kind = None if layer is None else fusable(layer)
    if layer is None or kind is None or not kind.takes_in_front(norm.size):
        return None
    return layer if arguments(layer)["input"] is node else None


def _absorb(graph: Graph, layer: Node, x: Node, channels: Channels, path: str) -> None:
    kind = fusable(layer)
    assert kind is not None
    new = _fused(graph, layer, layer, kind.in_front, channels, like=layer, input=x)
    annotate(new, absorbed=(*info(layer).absorbed, path))
    replace(graph, layer, new)


def _fused(
    graph: Graph, before: Node, layer: Node, fuse: Callable[..., Any], channels: Channels, *, like: Node, **changes: Any
) -> Node:
    """The layer with a norm in its weight and bias."""
    given = arguments(layer)
    weight, bias = fuse(partial(insert, graph, before), given["weight"], given["bias"], channels)
    new = changed(graph, before, layer, like=like, weight=weight, bias=bias, **changes)
    fields = ("path", "call", "module_type", "operator", "origin", "aliases", "absorbed")
    annotate(new, **{name: getattr(info(layer), name) for name in fields})
    return new


def _module(norm: Norm, layer: Node) -> str:
    """The module that is nothing but the norm: what reads it is elsewhere, and so is the layer. `""` if none is."""
    known = info(norm.last)
    inside = any((info(n).path, info(n).call) == (known.path, known.call) for n in norm.last.users)
    return "" if inside or known.path == info(layer).path else known.path


def _keeps_channels(node: Node) -> bool:
    """Averages over space, and flattening of what has no space left: a shift per channel goes through."""
    if operator_name(node) in {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}:
        return True
    source = positional(node)[0] if node.args else None
    shape = (shape_of(source) or ()) if isinstance(source, Node) else ()
    return operator_name(node) == "flatten" and len(shape) > 2 and all(n == 1 for n in shape[2:])

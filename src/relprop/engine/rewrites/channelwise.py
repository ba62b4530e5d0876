"""Scales and shifts per channel, read off a graph: batch norms with fixed statistics, captured or spelled out.

A frozen batch norm is often written `x * w + b`, `(x - mean) / std * w + b` or the like, with constants of shape
(1, C, 1, 1): a chain of scales and sums, each per channel, whose links nobody else reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, data_inputs, info, shape_of
from relprop.engine.rewrites.fusing import Channels
from relprop.engine.rewrites.rewriting import arguments, insert, positional, unmoved

BATCH_NORMS = {"batch_norm", "instance_norm", "_native_batch_norm_legit_no_training"}
"""Captured operators that are a scale and a shift where their statistics are fixed."""


@dataclass(frozen=True)
class Link:
    """One operator of a chain: `scaling · source + sign · shift`, constants as the graph has them."""

    node: Node
    source: Node
    scaling: Node | None
    shift: Node | None
    sign: float = 1


@dataclass(frozen=True)
class Norm:
    """A chain, first to last."""

    links: tuple[Link, ...]

    @property
    def source(self) -> Node:
        """What goes into the first link."""
        return self.links[0].source

    @property
    def last(self) -> Node:
        """What comes out of the last link."""
        return self.links[-1].node

    @property
    def size(self) -> int | None:
        """Number of channels."""
        return (shape_of(self.last) or (None, None))[1]

    @property
    def stands_alone(self) -> bool:
        """It is no part of another normalization, and does not prepare the model's input.

        A captured batch norm says so. One that is spelled out looks like the learned scale of a LayerNorm.
        """
        source = unmoved(self.source)
        if _is_captured(self.last):
            return True
        normalizes = source.target is f.scale and not info(arguments(source)["weight"]).static
        return source.op == "call_function" and source.target is not f.normalize and not normalizes

    def channels(self, graph: Graph, before: Node) -> Channels:
        """All scales and shifts as one: `s₂ (s₁ x + t₁) + t₂ = s₂ s₁ x + (s₂ t₁ + t₂)`."""
        scaling: Node | None = None
        shift: Node | None = None
        for link in self.links:
            if link.scaling is not None:
                s = _flat(graph, before, link.scaling)
                scaling = s if scaling is None else insert(graph, before, torch.ops.aten.mul.Tensor, scaling, s)
                shift = None if shift is None else insert(graph, before, torch.ops.aten.mul.Tensor, shift, s)
            if link.shift is not None:
                t = _flat(graph, before, link.shift)
                t = t if link.sign == 1 else insert(graph, before, torch.ops.aten.mul.Scalar, t, link.sign)
                shift = t if shift is None else insert(graph, before, torch.ops.aten.add.Tensor, shift, t)
        return Channels(scaling, shift)


def norm_at(node: Node) -> Norm | None:
    """The scale and shift per channel that begins with a node; None if none does."""
    link = _link(node)
    if link is None:
        return None
    links = [link]
    while not _is_captured(node):
        following = only_reader(links[-1].node)
        link = None if following is None or _is_captured(following) else _link(following)
        if link is None or _call(link.node) != _call(node):
            break
        links.append(link)
    scales, shifts = any(k.scaling for k in links), any(k.shift for k in links)
    return Norm(tuple(links)) if scales and shifts else None


def only_reader(node: Node) -> Node | None:
    """What reads a node, if it is one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _call(node: Node) -> tuple[str, int]:
    """The call of a module that a node belongs to."""
    return info(node).path, info(node).call


def _is_captured(node: Node) -> bool:
    """The scale of a captured batch norm that does not normalize by statistics of its input."""
    if node.target is not f.scale or info(node).operator not in BATCH_NORMS:
        return False
    source = arguments(node)["x"]
    return source.target is not f.normalize or info(source).origin != info(node).origin


def _link(node: Node) -> Link | None:
    data = data_inputs(node)
    if len(data) != 1 or shape_of(data[0]) != shape_of(node):
        return None
    if node.target is f.scale:
        given = arguments(node)
        scaling, shift = given["weight"], given["bias"]
        known = _is_per_channel(scaling, node) and (shift is None or _is_per_channel(shift, node))
        return Link(node, data[0], scaling, shift) if known else None
    if node.target is not f.add or len(positional(node)) != 2:
        return None
    terms = dict(zip(positional(node), arguments(node)["coefficients"], strict=True))
    of_data = terms.pop(data[0])
    ((shift, sign),) = terms.items() or [(None, 1)]
    return Link(node, data[0], None, shift, sign) if of_data == 1 and _is_per_channel(shift, node) else None


def _is_per_channel(constant: object, node: Node) -> bool:
    """Broadcast along the channels of (B, C, ...), with a value for each."""
    if not isinstance(constant, Node) or not info(constant).static:
        return False
    if constant.target is f.as_channels:
        return True
    shape, whole = shape_of(constant), shape_of(node) or ()
    if shape is None or len(shape) > len(whole) or len(whole) < 2:
        return False
    aligned = (1,) * (len(whole) - len(shape)) + shape
    return aligned == (1, whole[1], *(1,) * (len(whole) - 2))


def _flat(graph: Graph, before: Node, constant: Node) -> Node:
    """(C,) from (1, C, 1, 1)."""
    if constant.target is f.as_channels:
        flat = arguments(constant)["t"]
        assert isinstance(flat, Node)
        return flat
    if len(shape_of(constant) or ()) == 1:
        return constant
    return insert(graph, before, torch.ops.aten.reshape.default, constant, [-1])

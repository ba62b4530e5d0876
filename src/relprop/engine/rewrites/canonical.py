"""Graph rewrites: what a captured model goes through before rules are assigned. Each is an equivalence."""

from __future__ import annotations

from typing import Literal

from relprop.engine.graph.graph import Graph
from relprop.engine.rewrites.batch_norm import fuse_batch_norms
from relprop.engine.rewrites.elementwise import lift_elementwise
from relprop.engine.rewrites.lowering import lower
from relprop.engine.rewrites.scans import hold_selections

Canonize = bool | Literal["thresholds"]
"""Whether to fuse batch norms and hold selections; `"thresholds"`: also take norm, ReLU, layer apart (DenseNet)."""


def canonical(graph: Graph, *, canonize: Canonize = True) -> Graph:
    """Lower operators to relprop's own few and lift spelled-out activations.

    With `canonize`, also fuse batch norms and hold what selective scans select.
    """
    graph = lift_elementwise(lower(graph))
    if not canonize:
        return graph
    return fuse_batch_norms(hold_selections(graph), thresholds=canonize == "thresholds")

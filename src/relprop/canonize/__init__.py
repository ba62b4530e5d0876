"""Graph rewrites: what a captured model goes through before rules are assigned. Each is an equivalence."""

from __future__ import annotations

from relprop.canonize.batch_norm import fuse_batch_norms
from relprop.canonize.lowering import lower
from relprop.graph import Graph


def canonical(graph: Graph, *, canonize: bool = True) -> Graph:
    """Lower operators to relprop's own few; with `canonize`, also fuse batch norms."""
    graph = lower(graph)
    return fuse_batch_norms(graph) if canonize else graph

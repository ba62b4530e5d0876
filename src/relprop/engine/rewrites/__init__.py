"""Graph rewrites: what a captured model goes through before rules are assigned. Each is an equivalence.

What may live here: values and functions from a graph to an equivalent one, and the same for chains of modules. Each
returns the graph to go on with, and may have changed the one it was given.
"""

from relprop.engine.graph.graph import Graph, operator_name
from relprop.engine.rewrites.batch_norm import FuseBatchNorm
from relprop.engine.rewrites.canonical import Canonize, as_rewrites, canonical
from relprop.engine.rewrites.rewriting import Rewrite, arguments, insert, replace
from relprop.engine.rewrites.scans import HoldSelections

__all__ = [
    "Canonize",
    "FuseBatchNorm",
    "Graph",
    "HoldSelections",
    "Rewrite",
    "arguments",
    "as_rewrites",
    "canonical",
    "insert",
    "operator_name",
    "replace",
]

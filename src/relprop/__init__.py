"""relprop: layer-wise relevance propagation for any PyTorch model."""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from relprop import analyzers, composites, concepts, errors, rules, targets
from relprop.analyzers.artifact import Artifact, load, load_artifact
from relprop.analyzers.indices import layer_indices
from relprop.analyzers.lrp import LRP
from relprop.concepts import neuralize
from relprop.engine import rewrites
from relprop.engine.ops import register_op
from relprop.engine.ops.units import register_module
from relprop.engine.rewrites.modules import canonize, flatten_model, strip_softmax
from relprop.errors import RelpropError
from relprop.evaluation import Evaluation, evaluate
from relprop.explanations import figures, heatmaps, text
from relprop.explanations.explanation import Explanation

__version__ = version("relprop")

__all__ = [
    "LRP",
    "Artifact",
    "Evaluation",
    "Explanation",
    "RelpropError",
    "analyzers",
    "canonize",
    "composites",
    "concepts",
    "errors",
    "evaluate",
    "figures",
    "flatten_model",
    "heatmaps",
    "layer_indices",
    "load",
    "load_artifact",
    "neuralize",
    "register_module",
    "register_op",
    "rewrites",
    "rules",
    "strip_softmax",
    "targets",
    "text",
]

LATER = ("jobs", "models")
"""Rooms that are imported when they are asked for: not everyone needs them, and they read more."""


def __getattr__(name: str) -> ModuleType:
    if name in LATER:
        return import_module(f"relprop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})

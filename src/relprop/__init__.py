"""relprop: layer-wise relevance propagation for any PyTorch model."""

from relprop import composites, errors, rules, targets
from relprop.artifact import Artifact, load
from relprop.errors import RelpropError
from relprop.explanation import Explanation
from relprop.indices import layer_indices
from relprop.lrp import LRP
from relprop.ops import register_op
from relprop.prepare import canonize, flatten_model, strip_softmax
from relprop.units import register_module

__version__ = "0.1.0"

__all__ = [
    "LRP",
    "Artifact",
    "Explanation",
    "RelpropError",
    "canonize",
    "composites",
    "errors",
    "flatten_model",
    "layer_indices",
    "load",
    "register_module",
    "register_op",
    "rules",
    "strip_softmax",
    "targets",
]

"""Whether an explanation is right: numbers that say how good it is.

What may live here: metrics, what they need, and the table of their results. Nothing that computes relevance.
"""

from relprop.evaluation.evaluating import evaluate
from relprop.evaluation.fills import Blur, Constant, Fill, MaskToken, Mean, NoisyLinear, ZeroEmbedding
from relprop.evaluation.groups import Features, Groups, Patches, Pixels, Superpixels, Tokens
from relprop.evaluation.metrics import METRICS, Case, Metric
from relprop.evaluation.occlusion import Curves, Occluder, occlusion
from relprop.evaluation.result import Evaluation
from relprop.evaluation.shapley import shapley_values
from relprop.evaluation.subject import Subject
from relprop.evaluation.trust import trust

__all__ = [
    "METRICS",
    "Blur",
    "Case",
    "Constant",
    "Curves",
    "Evaluation",
    "Features",
    "Fill",
    "Groups",
    "MaskToken",
    "Mean",
    "Metric",
    "NoisyLinear",
    "Occluder",
    "Patches",
    "Pixels",
    "Subject",
    "Superpixels",
    "Tokens",
    "ZeroEmbedding",
    "evaluate",
    "occlusion",
    "shapley_values",
    "trust",
]

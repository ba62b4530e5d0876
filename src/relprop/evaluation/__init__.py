"""Whether an explanation is right: numbers that say how good it is.

What may live here: metrics, what they need, and the table of their results. Nothing that computes relevance.
"""

from relprop.evaluation.contesting import contest
from relprop.evaluation.evaluating import evaluate
from relprop.evaluation.fills import Blur, Constant, Fill, MaskToken, Mean, NoisyLinear, ZeroEmbedding
from relprop.evaluation.groups import Features, Groups, Patches, Pixels, Superpixels, Tokens
from relprop.evaluation.metrics import METRICS, Case, Metric
from relprop.evaluation.occlusion import Curves, Occluder, occlusion
from relprop.evaluation.ranking import Contest, Standing
from relprop.evaluation.result import Evaluation
from relprop.evaluation.shapley import shapley_values
from relprop.evaluation.spaces import ByDepth, Choice, Number, Space
from relprop.evaluation.subject import Subject
from relprop.evaluation.trust import trust
from relprop.evaluation.tuned import Tuned
from relprop.evaluation.tuning import tune

evaluate.contest = contest  # type: ignore[attr-defined]
evaluate.tune = tune  # type: ignore[attr-defined]

__all__ = [
    "METRICS",
    "Blur",
    "ByDepth",
    "Case",
    "Choice",
    "Constant",
    "Contest",
    "Curves",
    "Evaluation",
    "Features",
    "Fill",
    "Groups",
    "MaskToken",
    "Mean",
    "Metric",
    "NoisyLinear",
    "Number",
    "Occluder",
    "Patches",
    "Pixels",
    "Space",
    "Standing",
    "Subject",
    "Superpixels",
    "Tokens",
    "Tuned",
    "ZeroEmbedding",
    "contest",
    "evaluate",
    "occlusion",
    "shapley_values",
    "trust",
    "tune",
]

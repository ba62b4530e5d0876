"""Where relevance starts: targets, each a value that says what of the output it explains.

What may live here: kinds of targets, and the names and embeddings that they speak of. No model, no graph.
"""

from relprop.targets.combine import Output, Reference
from relprop.targets.contrast import Contrast, Difference, LogOdds
from relprop.targets.embeddings import Similarity, embedding_length
from relprop.targets.output import Function, Largest, Logit, OneHot, PerSample, Relevance, TargetLike, as_target
from relprop.targets.probability import LogProbability, Probability
from relprop.targets.regions import Mask, Span, TopK
from relprop.targets.target import Normalize, Seed, Sum, Target

__all__ = [
    "Contrast",
    "Difference",
    "Function",
    "Largest",
    "LogOdds",
    "LogProbability",
    "Logit",
    "Mask",
    "Normalize",
    "OneHot",
    "Output",
    "PerSample",
    "Probability",
    "Reference",
    "Relevance",
    "Seed",
    "Similarity",
    "Span",
    "Sum",
    "Target",
    "TargetLike",
    "TopK",
    "as_target",
    "embedding_length",
]

"""Where relevance starts: targets, each a value that says what of the output it explains.

What may live here: kinds of targets, and the names and embeddings that they speak of. No model, no graph.
"""

from relprop.targets.embeddings import embedding_length, similarity_to
from relprop.targets.output import Function, Index, Largest, PerSample, TargetLike, as_target
from relprop.targets.target import Seed, Target

__all__ = [
    "Function",
    "Index",
    "Largest",
    "PerSample",
    "Seed",
    "Target",
    "TargetLike",
    "as_target",
    "embedding_length",
    "similarity_to",
]

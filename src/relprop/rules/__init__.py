"""LRP rules, as values.

What may live here: frozen values and pure functions of tensors. No operator, no graph, no model.
"""

from relprop.rules.affine import (
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    NormRule,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)
from relprop.rules.base import AffineRule, Bias, Group, Rule, Term
from relprop.rules.modifiers import (
    Boost,
    Combined,
    Constant,
    Modifier,
    absolute,
    keep,
    negative,
    ones,
    positive,
    square,
)
from relprop.rules.special import (
    AttentionRule,
    FunctionRule,
    LayerNormRule,
    PassRule,
    ProductRule,
    SoftmaxRule,
    StopRule,
)
from relprop.rules.stabilizer import Stabilizer, stabilize

__all__ = [
    "AffineRule",
    "AlphaBetaRule",
    "AttentionRule",
    "Bias",
    "Boost",
    "Combined",
    "Constant",
    "EpsilonRule",
    "FlatRule",
    "FunctionRule",
    "GammaRule",
    "GeneralizedGammaRule",
    "Group",
    "LayerNormRule",
    "Modifier",
    "NormRule",
    "PassRule",
    "ProductRule",
    "Rule",
    "SoftmaxRule",
    "Stabilizer",
    "StopRule",
    "Term",
    "WSquareRule",
    "ZBoxRule",
    "ZPlusRule",
    "ZeroRule",
    "absolute",
    "keep",
    "negative",
    "ones",
    "positive",
    "square",
    "stabilize",
]

"""LRP rules, as values."""

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
    "EpsilonRule",
    "FlatRule",
    "FunctionRule",
    "GammaRule",
    "GeneralizedGammaRule",
    "Group",
    "LayerNormRule",
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
    "stabilize",
]

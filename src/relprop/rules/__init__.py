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
from relprop.rules.special import FunctionRule, LayerNormRule, PassRule
from relprop.rules.stabilizer import Stabilizer, stabilize

__all__ = [
    "AffineRule",
    "AlphaBetaRule",
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
    "Rule",
    "Stabilizer",
    "Term",
    "WSquareRule",
    "ZBoxRule",
    "ZPlusRule",
    "ZeroRule",
    "stabilize",
]

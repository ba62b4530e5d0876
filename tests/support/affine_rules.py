"""A rule of each kind for affine layers."""

from __future__ import annotations

from relprop.rules import (
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    Rule,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)

RULES: list[Rule] = [
    ZeroRule(),
    EpsilonRule(0.1),
    GammaRule(0.5),
    GeneralizedGammaRule(0.5),
    ZPlusRule(),
    AlphaBetaRule(2, 1),
    WSquareRule(),
    FlatRule(),
    ZBoxRule(-4.0, 4.0),
    EpsilonRule(0.1, bias="distribute"),
    GammaRule(0.5, bias="ignore"),
]

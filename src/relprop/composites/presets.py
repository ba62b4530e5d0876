"""Preset composites, with the assignments of Zennit, iNNvestigate and RelevancePropagation.jl.

Convolutions and linear layers get different rules, relevance passes through dropout, reshaping, activations and batch
norms that could not be fused, and everything else, pooling and sums among it, gets the 0-rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from relprop.composites.composite import Composite, preset
from relprop.composites.depth import Gamma, by_depth, first_of
from relprop.composites.primitives import FirstLayerTypeMap, GlobalTypeMap, Primitive
from relprop.engine.layers.kinds import (
    ActivationLayer,
    BatchNormLayer,
    ConvLayer,
    DropoutLayer,
    LayerType,
    LinearLayer,
    ReshapingLayer,
    ResidualLayer,
)
from relprop.rules import (
    AlphaBetaRule,
    Bias,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    PassRule,
    Rule,
    Stabilizer,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)


def _preset(
    conv: Rule,
    epsilon: Stabilizer,
    stabilizer: Stabilizer,
    bias: Bias,
    first: Rule | None = None,
    behind: Sequence[Primitive] = (),
) -> Composite:
    rules: dict[LayerType, Rule] = {
        ConvLayer: conv,
        LinearLayer: EpsilonRule(epsilon, bias=bias),
        DropoutLayer: PassRule(),
        BatchNormLayer: PassRule(),
        ReshapingLayer: PassRule(),
        ActivationLayer: PassRule(),
    }
    primitives = [GlobalTypeMap(rules), *behind, *([FirstLayerTypeMap({ConvLayer: first})] if first else [])]
    return Composite(ZeroRule(stabilizer=stabilizer, bias=bias), *primitives)


@preset
def EpsilonPlus(epsilon: Stabilizer = 1e-6, *, stabilizer: Stabilizer = 1e-9, bias: Bias = "absorb") -> Composite:
    """z⁺-rule for convolutions, ε-rule for linear layers.

    Args:
        epsilon: ε of the ε-rule.
        stabilizer: of all other rules.
        bias: policy of all rules.
    """
    return _preset(ZPlusRule(stabilizer=stabilizer, bias=bias), epsilon, stabilizer, bias)


@preset
def EpsilonPlusFlat(epsilon: Stabilizer = 1e-6, *, stabilizer: Stabilizer = 1e-9, bias: Bias = "absorb") -> Composite:
    """`EpsilonPlus`, with the flat rule for the first layer if it is a convolution."""
    flat = FlatRule(stabilizer=stabilizer, bias=bias)
    return _preset(ZPlusRule(stabilizer=stabilizer, bias=bias), epsilon, stabilizer, bias, flat)


@preset
def EpsilonAlpha2Beta1(
    epsilon: Stabilizer = 1e-6, *, stabilizer: Stabilizer = 1e-9, bias: Bias = "absorb"
) -> Composite:
    """αβ-rule with α = 2, β = 1 for convolutions, ε-rule for linear layers."""
    return _preset(AlphaBetaRule(2.0, 1.0, stabilizer=stabilizer, bias=bias), epsilon, stabilizer, bias)


@preset
def EpsilonAlpha2Beta1Flat(
    epsilon: Stabilizer = 1e-6, *, stabilizer: Stabilizer = 1e-9, bias: Bias = "absorb"
) -> Composite:
    """`EpsilonAlpha2Beta1`, with the flat rule for the first layer if it is a convolution."""
    flat = FlatRule(stabilizer=stabilizer, bias=bias)
    return _preset(AlphaBetaRule(2.0, 1.0, stabilizer=stabilizer, bias=bias), epsilon, stabilizer, bias, flat)


@preset
def EpsilonGamma(
    epsilon: Stabilizer = 1e-6,
    gamma: Gamma = 0.5,
    *,
    gamma_residual: float | None = None,
    stabilizer: Stabilizer = 1e-9,
    bias: Bias = "absorb",
) -> Composite:
    """Generalized γ-rule for convolutions, ε-rule for linear layers.

    It is safe for outputs of either sign, which convolutions in front of residual sums and batch norms have.

    Args:
        epsilon: ε of the ε-rule.
        gamma: γ of the generalized γ-rule; a pair: that of the first and of the last convolution, see `GammaByDepth`.
        gamma_residual: γ of sums of data with data; None: the 0-rule.
        stabilizer: of all rules but the ε-rule.
        bias: policy of all rules.
    """
    return _gamma_preset(epsilon, gamma, gamma_residual, stabilizer, bias)


@preset
def EpsilonGammaFlat(
    epsilon: Stabilizer = 1e-6,
    gamma: Gamma = 0.5,
    *,
    gamma_residual: float | None = None,
    stabilizer: Stabilizer = 1e-9,
    bias: Bias = "absorb",
) -> Composite:
    """`EpsilonGamma`, with the flat rule for the first layer if it is a convolution.

    γ = 0.5 is between what docs/evidence.md finds: a larger γ follows the output a little better on small pictures, a
    smaller one is sharper, and better on photographs. The flat rule gives every pixel of a filter's field the same,
    which suits pictures; of signals, where 0 is silence, it gives silence as much as sound.

    It takes what `EpsilonGamma` takes.
    """
    flat = FlatRule(stabilizer=stabilizer, bias=bias)
    return _gamma_preset(epsilon, gamma, gamma_residual, stabilizer, bias, flat)


def _gamma_preset(
    epsilon: Stabilizer,
    gamma: Gamma,
    gamma_residual: float | None,
    stabilizer: Stabilizer,
    bias: Bias,
    first: Rule | None = None,
) -> Composite:
    behind = by_depth(ConvLayer, gamma, stabilizer=stabilizer, bias=bias)
    if gamma_residual is not None:
        rule = GeneralizedGammaRule(gamma_residual, stabilizer=stabilizer, bias=bias)
        behind.append(GlobalTypeMap({ResidualLayer: rule}))
    conv = GeneralizedGammaRule(first_of(gamma), stabilizer=stabilizer, bias=bias)
    return _preset(conv, epsilon, stabilizer, bias, first, behind)


@preset
def EpsilonGammaBox(
    low: float | Tensor,
    high: float | Tensor,
    epsilon: Stabilizer = 1e-6,
    gamma: float = 0.25,
    *,
    generalized: bool = True,
    stabilizer: Stabilizer = 1e-9,
    bias: Bias = "absorb",
) -> Composite:
    """γ-rule for convolutions, ε-rule for linear layers, z^B-rule for the first layer if it is a convolution.

    The γ-rule (Montavon et al. 2019) is made for layers whose outputs are not negative, and there the generalized one
    is the same. In front of residual sums and batch norms, where outputs of either sign have relevance, denominators
    near zero make the former explode. Zennit's composite of this name has the generalized rule,
    RelevancePropagation.jl's the other.

    Args:
        low: smallest value of the input, a number or a tensor that broadcasts to it, such as (C, 1, 1). For pictures
            normalized with `mean` and `std` it is `(0 - mean) / std`.
        high: largest value, likewise: `(1 - mean) / std`.
        epsilon: ε of the ε-rule.
        gamma: γ of the γ-rule.
        generalized: False takes the γ-rule as the paper has it.
        stabilizer: of all rules but the ε-rule.
        bias: policy of all rules.
    """
    box = ZBoxRule(low, high, stabilizer=stabilizer, bias=bias)
    kind = GeneralizedGammaRule if generalized else GammaRule
    return _preset(kind(gamma, stabilizer=stabilizer, bias=bias), epsilon, stabilizer, bias, box)

"""Preset composites for transformers, gates and state spaces, and the choice among all presets."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

from torch import nn

from relprop.composites.composite import Composite, preset
from relprop.composites.depth import Gamma, by_depth, first_of
from relprop.composites.presets import EpsilonGamma, EpsilonGammaFlat
from relprop.composites.primitives import GlobalTypeMap
from relprop.engine.layers.kinds import (
    ActivationLayer,
    AttentionLayer,
    BatchNormLayer,
    ConvLayer,
    DropoutLayer,
    LayerType,
    LinearLayer,
    NormalizationLayer,
    ProductLayer,
    ReshapingLayer,
    ResidualLayer,
    SoftmaxLayer,
)
from relprop.rules import (
    AttentionRule,
    Bias,
    EpsilonRule,
    GeneralizedGammaRule,
    LayerNormRule,
    PassRule,
    ProductRule,
    Rule,
    SoftmaxRule,
    StopRule,
    ZeroRule,
)
from relprop.rules.special import AttentionMode, RopeShare, SoftmaxBias


@preset
def AttnLRP(
    *,
    attention: AttentionMode = "attnlrp",
    softmax: SoftmaxBias = "absorb",
    gate: Literal["uniform", "signal"] = "uniform",
    gamma_linear: Gamma | None = None,
    gamma_conv: Gamma | None = None,
    gamma_residual: float | None = None,
    epsilon: float = 0.0,
    bias: Bias = "absorb",
    rope: RopeShare = "constant",
) -> Composite:
    """AttnLRP (Achtibat et al. 2024), for models with attention, gates or state spaces.

    Linear layers and convolutions get the ε-rule with the ε of `epsilon` (0: the 0-rule), or the generalized γ-rule
    where a γ is given, which vision transformers want. Norm statistics count as constants, activations pass relevance.

    Args:
        attention: rule of the attention weights: through the softmax; `"cp"`: constants (CP-LRP); `"half"`: they keep
            their half of the product with the values.
        softmax: what the softmax expansion's bias does; fused attention always absorbs.
        gate: how products of data with data share: every factor alike, or signals take all from activated gates.
        gamma_linear: γ of linear layers; a pair: that of the first and of the last, see `GammaByDepth`; None: no γ.
        gamma_conv: γ of convolutions, likewise.
        gamma_residual: γ of sums of data with data; None: no γ.
        epsilon: ε of linear layers and convolutions.
        bias: policy of all affine rules.
        rope: rotary positions count as constants; `"half"`: they keep half of what comes to the queries and keys that
            they turn, in the sink `rotary` (PA-LRP, Bakish et al. 2025). Of use where something comes to those.
    """
    plain: Rule = EpsilonRule(epsilon, bias=bias) if epsilon else ZeroRule(bias=bias)
    weights: dict[str, Rule] = {"attnlrp": SoftmaxRule(softmax), "cp": StopRule(), "half": SoftmaxRule("keep")}
    rules: dict[LayerType, Rule] = {
        LinearLayer: plain if gamma_linear is None else GeneralizedGammaRule(first_of(gamma_linear), bias=bias),
        ConvLayer: plain if gamma_conv is None else GeneralizedGammaRule(first_of(gamma_conv), bias=bias),
        ProductLayer: ProductRule(gate, rope),
        AttentionLayer: AttentionRule(attention),
        SoftmaxLayer: weights[AttentionRule(attention).mode],
        NormalizationLayer: LayerNormRule(),
        BatchNormLayer: PassRule(),
        DropoutLayer: PassRule(),
        ReshapingLayer: PassRule(),
        ActivationLayer: PassRule(),
    }
    if gamma_residual is not None:
        rules[ResidualLayer] = GeneralizedGammaRule(gamma_residual, bias=bias)
    behind = by_depth(LinearLayer, gamma_linear, bias=bias) + by_depth(ConvLayer, gamma_conv, bias=bias)
    return Composite(ZeroRule(bias=bias), GlobalTypeMap(rules), *behind)


@preset
def CPLRP(
    *,
    attention: AttentionMode = "cp",
    softmax: SoftmaxBias = "absorb",
    gate: Literal["uniform", "signal"] = "uniform",
    gamma_linear: Gamma | None = None,
    gamma_conv: Gamma | None = None,
    gamma_residual: float | None = None,
    epsilon: float = 0.0,
    bias: Bias = "absorb",
    rope: RopeShare = "constant",
) -> Composite:
    """Conservative propagation (Ali et al. 2022): `AttnLRP`, by default with attention weights as constants.

    On models without biases it conserves relevance, but for what stabilizers keep.

    It takes what `AttnLRP` takes.
    """
    return AttnLRP(
        attention=attention,
        softmax=softmax,
        gate=gate,
        gamma_linear=gamma_linear,
        gamma_conv=gamma_conv,
        gamma_residual=gamma_residual,
        epsilon=epsilon,
        bias=bias,
        rope=rope,
    )


@preset
def ResLRP(
    *,
    attention: AttentionMode = "attnlrp",
    softmax: SoftmaxBias = "absorb",
    gate: Literal["uniform", "signal"] = "uniform",
    gamma_linear: Gamma | None = None,
    gamma_conv: Gamma | None = None,
    gamma_residual: float | None = 1.0,
    epsilon: float = 0.0,
    bias: Bias = "absorb",
    rope: RopeShare = "constant",
) -> Composite:
    """`AttnLRP` with the generalized γ-rule, γ = 1, on residual sums (ResLRP, 2026).

    Where a block takes back a part of what it is added to, the 0-rule gives both large shares of opposite signs, and
    more so from block to block; with γ what is added in the direction of the sum gets more, and neither grows without
    bound.

    It takes what `AttnLRP` takes.
    """
    return AttnLRP(
        attention=attention,
        softmax=softmax,
        gate=gate,
        gamma_linear=gamma_linear,
        gamma_conv=gamma_conv,
        gamma_residual=gamma_residual,
        epsilon=epsilon,
        bias=bias,
        rope=rope,
    )


def recommended(model: nn.Module) -> Composite:
    """A composite for a model, by what it is made of; the printed composite says why.

    Examples:
        >>> from torch import nn
        >>> from relprop.composites import recommended
        >>> print(recommended(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))))
        # EpsilonRule: only linear layers, whose outputs near zero the epsilon keeps from blowing up
        Composite(
          EpsilonRule(epsilon=1e-06),  # default
        )
    """
    names = {type(m).__name__ for m in model.modules()}
    attends = any("Attention" in name or "Mixer" in name for name in names)
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
    embeds = any(isinstance(m, nn.Embedding) for m in model.modules())
    if attends and convolves and not embeds:
        return for_vision_transformers().because("ResLRP with gamma: a vision transformer, see docs/evidence.md")
    if attends and embeds and not convolves and _encodes_text(names):
        return ResLRP(attention="cp").because(
            "ResLRP with attention as a constant: an encoder of text, see docs/evidence.md"
        )
    recurs = any(isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for m in model.modules())
    if attends or embeds or recurs:
        return AttnLRP().because("AttnLRP: a sequence model with attention, gates or recurrence")
    if convolves and _reads_signals(model):
        return EpsilonGamma().because(
            "EpsilonGamma: a convolutional network of signals, where silence should get nothing, see docs/evidence.md"
        )
    if convolves:
        return EpsilonGammaFlat().because("EpsilonGammaFlat: a convolutional network, see docs/evidence.md")
    return Composite(EpsilonRule()).because(
        "EpsilonRule: only linear layers, whose outputs near zero the epsilon keeps from blowing up"
    )


def _encodes_text(names: Set[str]) -> bool:
    """Whether modules of these types read a text and say none, as those of BERT; "Encoder" is in all their names."""
    speaks = ("Decoder", "CausalLM", "LMHead", "Generation")
    return any("Encoder" in name for name in names) and not any(word in name for word in speaks for name in names)


def for_vision_transformers() -> Composite:
    """`ResLRP` with the γ of docs/evidence.md."""
    return ResLRP(gamma_linear=0.05, gamma_conv=0.25)


def _reads_signals(model: nn.Module) -> bool:
    """Whether the first convolution runs along one dimension, by its class or because its kernel is a line."""
    first = next(m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return max(first.kernel_size) > 1 and sum(size > 1 for size in first.kernel_size) == 1

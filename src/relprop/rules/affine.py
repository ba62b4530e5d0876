"""The published rules for affine layers, each as the terms of one formula (see `relprop.rules.base`).

Letters: `a` input, `w, b` weight and bias, `z = Σ a w + b`, `t⁺ = max(t, 0)`, `t⁻ = min(t, 0)`. Every denominator is
stabilized, also where a formula does not show it. Papers are listed in `docs/bibliography.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.rules.base import AffineRule, Group, Term, same_fields
from relprop.rules.modifiers import Boost, Constant, absolute, keep, negative, ones, positive, square
from relprop.rules.stabilizer import Stabilizer


@dataclass(frozen=True, repr=False)
class ZeroRule(AffineRule):
    """LRP-0: `R_i = Σ_j a_i w_ij / z_j · R_j` (Bach et al. 2015).

    On activations, dropout and reshaping it passes relevance on; on max pooling the winner takes all; on a
    normalization it is the `LayerNormRule`. Products share evenly, a softmax gets the `SoftmaxRule`, fused attention
    the `AttentionRule`.
    """


@dataclass(frozen=True, repr=False)
class EpsilonRule(AffineRule):
    """LRP-ε: `R_i = Σ_j a_i w_ij / (z_j + ε·sign(z_j)) · R_j` (Bach et al. 2015).

    Args:
        epsilon: ε, or a callable that stabilizes `z`. It is the stabilizer.

    Raises:
        RuleError: a negative ε.
    """

    epsilon: Stabilizer = 1e-6
    stabilizer: Stabilizer = field(init=False, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.epsilon) and not float(self.epsilon) >= 0:
            raise RuleError(f"EpsilonRule: epsilon must be >= 0 or a callable, got {self.epsilon!r}.")
        object.__setattr__(self, "stabilizer", self.epsilon)
        super().__post_init__()

    @property
    def divides(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class GammaRule(AffineRule):
    """LRP-γ: `R_i = Σ_j a_i (w_ij + γ w_ij⁺) / (Σ_i a_i (w_ij + γ w_ij⁺) + b_j + γ b_j⁺) · R_j` (Montavon et al. 2019).

    Made for layers with non-negative inputs; for others see `GeneralizedGammaRule`.

    Raises:
        RuleError: a negative γ.
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        _check_gamma(self, self.gamma)
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        boost = Boost(self.gamma)
        return (Group((Term(keep, boost, boost),)),)


@dataclass(frozen=True, repr=False)
class GeneralizedGammaRule(AffineRule):
    """Generalized LRP-γ, for inputs and outputs of either sign (Andéol et al. 2021).

    With `w⊕ = w + γw⁺` and `w⊖ = w + γw⁻`: where `z_j > 0` the share of input `i` is `a_i⁺ w_ij⊕ + a_i⁻ w_ij⊖`, over
    its sum plus `b_j⊕`; where `z_j < 0` it is `a_i⁺ w_ij⊖ + a_i⁻ w_ij⊕`, over its sum plus `b_j⊖`; where `z_j = 0`
    nothing flows.
    """

    gamma: float = 0.25

    def __post_init__(self) -> None:
        _check_gamma(self, self.gamma)
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        """The terms, with `(wa)⁺ = (wa + |w||a|)/2`, so that both signs of `z` share the passes through `W` and `|W|`.

            Σ_i (a_i⁺ w_ij⊕ + a_i⁻ w_ij⊖) = (1 + γ/2) Σ_i a_i w_ij + γ/2 Σ_i |a_i| |w_ij|

        and with − for `z_j < 0`. Where `z_j > 0` both sums are positive, so nothing cancels.
        """
        plain, size = Term(coefficient=1 + self.gamma / 2), Term(absolute, absolute, absolute, self.gamma / 2)
        return (
            Group((plain, size), mask="positive"),
            Group((plain, replace(size, coefficient=-self.gamma / 2)), mask="negative"),
        )


@dataclass(frozen=True, repr=False)
class ZPlusRule(AffineRule):
    """z⁺-rule (Montavon et al. 2017).

    `R_i = Σ_j (a_i⁺ w_ij⁺ + a_i⁻ w_ij⁻) / (Σ_i (a_i⁺ w_ij⁺ + a_i⁻ w_ij⁻) + b_j⁺) · R_j`

    Equal to `AlphaBetaRule(1, 0)`.
    """

    def groups(self) -> tuple[Group, ...]:
        return (_excitation(),)


@dataclass(frozen=True, repr=False)
class AlphaBetaRule(AffineRule):
    """LRP-αβ: α times the share of positive contributions minus β times that of negative ones (Bach et al. 2015).

    `R_i = Σ_j (α (a_i w_ij)⁺ / (Σ_i (a_i w_ij)⁺ + b_j⁺) − β (a_i w_ij)⁻ / (Σ_i (a_i w_ij)⁻ + b_j⁻)) · R_j`

    Raises:
        RuleError: unless `alpha - beta = 1` and both are non-negative.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise RuleError(
                f"AlphaBetaRule: needs alpha - beta = 1 and both >= 0, got alpha={self.alpha}, beta={self.beta}."
            )
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        inhibition = Group((Term(positive, negative, negative), Term(negative, positive, None)), -self.beta)
        excitation = _excitation(self.alpha)
        return (excitation, inhibition) if self.beta else (excitation,)


@dataclass(frozen=True, repr=False)
class WSquareRule(AffineRule):
    """w²-rule: `R_i = Σ_j w_ij² / Σ_i w_ij² · R_j`, for unbounded inputs (Montavon et al. 2017). No bias in it."""

    def groups(self) -> tuple[Group, ...]:
        return (Group((Term(ones, square, None),)),)


@dataclass(frozen=True, repr=False)
class FlatRule(AffineRule):
    """Flat rule: `R_i = Σ_j 1 / n_j · R_j` over the `n_j` inputs connected to output `j` (Lapuschkin et al. 2019)."""

    def groups(self) -> tuple[Group, ...]:
        return (Group((Term(ones, ones, None),)),)


@dataclass(frozen=True, repr=False)
class ZBoxRule(AffineRule):
    """z^B-rule, for inputs in a box `l <= a <= h`, such as pixels (Montavon et al. 2017).

    `R_i = Σ_j (a_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_i (a_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) · R_j`. The bias cancels.

    Args:
        low: the bound `l`: a number, or a tensor that broadcasts to the input (B, C, ...): (F,) for features, (C, 1)
            for signals, (C, 1, 1) for pictures; for bounds per sample the same with the batch in front.
        high: the bound `h`, likewise.

    Raises:
        RuleError: a lower bound above its upper bound.
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if bool(torch.any(torch.as_tensor(self.low).cpu() > torch.as_tensor(self.high).cpu())):
            raise RuleError(f"{self!r}: low must not be above high.")
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        low = Term(Constant(self.low), positive, None, coefficient=-1.0)
        high = Term(Constant(self.high), negative, None, coefficient=-1.0)
        return (Group((Term(keep, keep, None), low, high)),)

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other)

    def __hash__(self) -> int:
        return hash((type(self), self.stabilizer, self.bias))


@dataclass(frozen=True, repr=False)
class NormRule(AffineRule):
    """Each input's share of the layer's output as the layer is, parameters untouched: `R_i = a_i Σ_j A_ij / z_j · R_j`.

    For sums and average pools it is the 0-rule; on max pooling it shares in proportion among all of a window's entries
    instead of giving all to the winner.
    """


def _excitation(coefficient: float = 1.0) -> Group:
    return Group((Term(positive, positive, positive), Term(negative, negative, None)), coefficient)


def _check_gamma(rule: AffineRule, gamma: float) -> None:
    if not gamma >= 0:
        raise RuleError(f"{type(rule).__name__}: gamma must be >= 0, got {gamma}.")

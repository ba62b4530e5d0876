"""What a rule is: a small frozen value that names the terms of one formula.

Every affine rule is an instance of

    R_i = Σ_g coef_g Σ_{k∈g} a_k,i · [A_kᵀ (mask_g · R_out / stab(Σ_{k∈g} A_k a_k + b_k))]_i

where term `k = (f_x, f_w, f_b)` stands for `a_k = f_x(a)` and for the layer `A_k` of weight `f_w(W)`, bias `f_b(b)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.rules.modifiers import Modifier, is_local, keep
from relprop.rules.stabilizer import STABILIZER, Stabilizer, stabilize

Bias = Literal["absorb", "ignore", "distribute"]
"""What becomes of a bias's share `b_j/z_j·R_j`: kept, left out of the denominator, or spread over the inputs of `j`."""

BIAS_POLICIES: tuple[Bias, ...] = ("absorb", "ignore", "distribute")


@dataclass(frozen=True)
class Term:
    """`A_k a_k + b_k` with `a_k = input(a)`, weight `weight(W)` and bias `bias(b)` (None: no bias)."""

    input: Modifier = keep
    weight: Modifier = keep
    bias: Modifier | None = keep
    coefficient: float = 1.0

    @property
    def plain(self) -> bool:
        """Input, weight and bias stay as they are."""
        return self.input is keep and self.weight is keep and self.bias is keep and self.coefficient == 1.0


@dataclass(frozen=True)
class Group:
    """Terms that share one denominator. `mask` keeps the outputs where the layer's own `z` is positive or negative."""

    terms: tuple[Term, ...]
    coefficient: float = 1.0
    mask: Literal["all", "positive", "negative"] = "all"

    @property
    def whole(self) -> bool:
        """It shares out all relevance, of all outputs."""
        return self.coefficient == 1.0 and self.mask == "all"


@dataclass(frozen=True)
class Rule:
    """Base of all rules. A rule is a value: it prints, compares, and never holds state.

    What steps ask of every rule is here: `divides`, and `modify_denominator`.
    """

    def __init_subclass__(cls) -> None:
        # A user's `@dataclass` would otherwise put its own long repr in the place of the short one.
        super().__init_subclass__()
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Rule.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        shown = [f"{f.name}={short(getattr(self, f.name))}" for f in fields(self) if self._shows(f.name)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shows(self, name: str) -> bool:
        """Stabilizer and bias policy are printed only where they are given, and differ from their default."""
        own = next(f for f in fields(self) if f.name == name)
        return own.init and (name not in {"stabilizer", "bias"} or getattr(self, name) != own.default)

    @property
    def divides(self) -> bool:
        """All relevance is divided by the stabilized `z`, also what came as a factor of `z` and needs no division."""
        return False

    def modify_denominator(self, z: Tensor) -> Tensor:
        """`z` (B, ...) -> the stabilized denominator, same shape."""
        return stabilize(z, STABILIZER)


@dataclass(frozen=True, repr=False)
class AffineRule(Rule):
    """A rule for layers `z = W a + b`. Subclass it to make your own.

    Override `modify_input`, `modify_weight`, `modify_bias` (or `modify_parameters` for both), `modify_denominator`, or
    `groups` where one term is not enough. As it stands, it is the 0-rule

        R_i = Σ_j a_i w_ij / stab(Σ_i a_i w_ij + b_j) · R_j

    Args:
        stabilizer: ε in `z + ε·sign(z)`, or a callable `z -> stabilized z`.
        bias: `"absorb"`: the bias keeps its share `b_j/z_j·R_j`; `"ignore"`: it is left out of the denominator;
            `"distribute"`: its share is spread evenly over the inputs connected to output `j`.

    Examples:
        A γ-rule in three lines:

        >>> from dataclasses import dataclass
        >>> from relprop.rules import AffineRule
        >>> @dataclass(frozen=True)
        ... class MyGammaRule(AffineRule):
        ...     gamma: float = 0.25
        ...     def modify_parameters(self, parameter):
        ...         return parameter + self.gamma * parameter.clamp(min=0)
        >>> MyGammaRule(gamma=0.5)
        MyGammaRule(gamma=0.5)
    """

    stabilizer: Stabilizer = field(default=STABILIZER, kw_only=True)
    bias: Bias = field(default="absorb", kw_only=True)

    def __post_init__(self) -> None:
        if self.bias not in BIAS_POLICIES:
            raise RuleError(f"{type(self).__name__}: bias={self.bias!r} is none of {', '.join(BIAS_POLICIES)}.")
        if not callable(self.stabilizer) and not float(self.stabilizer) >= 0:
            raise RuleError(
                f"{type(self).__name__}: the stabilizer must be >= 0 or a callable, got {self.stabilizer!r}."
            )

    def modify_input(self, a: Tensor) -> Tensor:
        """`a` (B, ...) -> what takes its place, in numerator and denominator."""
        return a

    def modify_parameters(self, parameter: Tensor) -> Tensor:
        """A weight or a bias -> what takes its place, same shape."""
        return parameter

    def modify_weight(self, weight: Tensor) -> Tensor:
        """A weight -> what takes its place, same shape."""
        return self.modify_parameters(weight)

    def modify_bias(self, bias: Tensor) -> Tensor:
        """A bias -> what takes its place, same shape."""
        return self.modify_parameters(bias)

    def modify_denominator(self, z: Tensor) -> Tensor:
        """`z` (B, ...) -> the stabilized denominator, same shape."""
        return stabilize(z, self.stabilizer)

    def groups(self) -> tuple[Group, ...]:
        """The terms of the formula, by denominator."""
        return (Group((Term(self._input(), self._parameter("modify_weight"), self._parameter("modify_bias")),)),)

    @property
    def unmodified(self) -> bool:
        """Input, weight, bias and share stay as they are, so that the rule makes sense where there is no weight."""
        groups = self.groups()
        return len(groups) == 1 and groups[0].whole and all(term.plain for term in groups[0].terms)

    @property
    def is_local(self) -> bool:
        """Whether an output's share follows from its own row of weights, its bias and its denominator alone.

        So it is in the published rules. A hook of a subclass may look at all entries of what it is given, and so may a
        callable stabilizer: for these no output is left out, also where no relevance comes from it.
        """
        terms = [t for g in self.groups() for t in g.terms]
        modifiers = [m for t in terms for m in (t.input, t.weight, t.bias) if m is not None]
        return not (self.stabilizes_itself or callable(self.stabilizer)) and all(map(is_local, modifiers))

    @property
    def stabilizes_itself(self) -> bool:
        """A subclass overrides `modify_denominator`."""
        return type(self).modify_denominator is not AffineRule.modify_denominator

    @property
    def divides(self) -> bool:
        """The denominator is more than `z` kept away from zero, so it shows also where `z` would cancel."""
        return self.stabilizes_itself or callable(self.stabilizer)

    def _input(self) -> Modifier:
        return keep if type(self).modify_input is AffineRule.modify_input else self.modify_input

    def _parameter(self, hook: str) -> Modifier:
        untouched = getattr(type(self), hook) is getattr(AffineRule, hook)
        if untouched and type(self).modify_parameters is AffineRule.modify_parameters:
            return keep
        modifier: Modifier = getattr(self, hook)
        return modifier


def short(value: object) -> str:
    """A parameter as prints show it."""
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}" if value.numel() > 1 else f"{value.item():g}"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) >= 1e6 else f"{value:.1f}"
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return repr(value)


def same_fields(first: Rule, second: object) -> bool:
    """Equality field by field, for rules that hold tensors."""
    if type(first) is not type(second):
        return False
    for f in fields(first):
        a, b = getattr(first, f.name), getattr(second, f.name)
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        if not (torch.equal(a, b) if both else not (isinstance(a, Tensor) or isinstance(b, Tensor)) and a == b):
            return False
    return True

"""γ by depth: the generalized γ-rule, with another γ for each layer of a kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relprop.composites.primitives import Assignment, Primitive
from relprop.engine.layers.kinds import LayerType, check_type, show_type
from relprop.engine.layers.layers import Layer
from relprop.rules import Bias, GeneralizedGammaRule, Rule, Stabilizer
from relprop.rules.stabilizer import STABILIZER

Gamma = float | tuple[float, float]
"""One gamma, or that of the first and that of the last layer; those between go in equal steps."""


@dataclass(frozen=True)
class GammaByDepth(Primitive):
    """`GammaByDepth(type, first, last)`: `γ_k = first + (last − first) k / (n − 1)` for the n layers of a type.

    k counts from 0 in order of execution. Where there is one layer, its γ is `first`.

    Args:
        kind: the type of layers, such as `ConvLayer`.
        first: γ of the one nearest to the input.
        last: γ of the one nearest to the output.
        stabilizer: of their rules.
        bias: policy of their rules.
    """

    kind: LayerType
    first: float
    last: float
    stabilizer: Stabilizer = STABILIZER
    bias: Bias = "absorb"

    def __post_init__(self) -> None:
        check_type(self.kind)
        self._rule(self.first), self._rule(self.last)  # refuse what cannot be

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        found = [layer for layer in layers if layer.is_a(self.kind)]
        steps = len(found) - 1
        for k, layer in enumerate(found):
            gamma = self.last if 0 < k == steps else self.first + (self.last - self.first) * k / max(steps, 1)
            yield layer, self._rule(gamma)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return show_type(self.kind), "by depth", [("first", self._rule(self.first)), ("last", self._rule(self.last))]

    def _rule(self, gamma: float) -> Rule:
        return GeneralizedGammaRule(gamma, stabilizer=self.stabilizer, bias=self.bias)


def by_depth(
    kind: LayerType, gamma: Gamma | None, *, stabilizer: Stabilizer = STABILIZER, bias: Bias = "absorb"
) -> list[Primitive]:
    """What a preset puts behind its map of types: nothing where γ is one number, or none."""
    return [GammaByDepth(kind, *gamma, stabilizer=stabilizer, bias=bias)] if isinstance(gamma, tuple) else []


def first_of(gamma: Gamma) -> float:
    """The γ of the first layer."""
    return gamma[0] if isinstance(gamma, tuple) else gamma

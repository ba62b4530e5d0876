"""Statistics that are features: standard deviations, variances, norms. Divided by, they count as constants (LN-rule).

They are homogeneous, `f(t a) = t^d f(a)`, so that `Σ_i a_i ∂f/∂a_i = d f` (Euler): the derivative, divided by `d`,
shares all relevance out, as the same statistic does when it is spelled out with means, squares and roots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.ops.registry import always, op_of, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, Tape
from relprop.rules import AffineRule, Rule


@dataclass(frozen=True)
class Statistic:
    """Its degree: what a statistic of `t · a` is multiplied with is `t` to this power."""

    degree: int


register("std std_mean norm linalg_norm linalg_vector_norm linalg_matrix_norm frobenius_norm", "statistic",
         nonneg=always, options=Statistic(1))  # fmt: skip
register("var var_mean", "statistic", nonneg=always, options=Statistic(2))


class StatisticStep(Step):
    """`R_i = a_i Σ_j ∂z_j/∂a_i · R_j / (d z_j)`, which is `c_in = Jᵀ c / d`."""

    records: ClassVar[bool] = True

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.read(*self.sources, *((node,) if rule.divides or "R" in self.forms else ()))
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, AffineRule) or not rule.unmodified:
            raise cannot_serve(node, rule, "a statistic has no weights to modify; use ZeroRule(), or StopRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        c = self.factored(message, tape)
        shares = tape.adjoint(self.node, self.sources, Message(c), linear=False)
        return [(x, share.map(self._of_one_factor)) for x, share in zip(self.sources, shares, strict=True)]

    def _of_one_factor(self, c: Tensor) -> Tensor:
        """Where inputs are all alike, a standard deviation is 0 and its derivative no number: no relevance is there."""
        known = op_of(self.node).options
        assert isinstance(known, Statistic)
        return torch.where(c.isfinite(), c, 0) / known.degree


def is_statistic(node: Node) -> bool:
    """A statistic, perhaps moved since."""
    while op_of(node).family == "movement" and isinstance(node.args[0], Node):
        node = node.args[0]
    return op_of(node).family == "statistic"

"""Normalizations: statistics count as constants, centring is a linear map (LN-rule, Ali et al. 2022).

Captured norms are rewritten to `normalize` followed by `scale`, so only the normalization proper is here.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value
from relprop.engine.graph.operators import group, normalize_with_statistics
from relprop.engine.ops.registry import register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import C, Message, Tape
from relprop.rules import EpsilonRule, LayerNormRule, NormRule, Rule, ZeroRule


def _over_features(node: Node, dim: int) -> bool:
    dims, groups = node.args[1:3]
    return not groups and set(dims) <= {-1, len(fake_value(node).shape) - 1}  # type: ignore[arg-type]


register("normalize", "normalization", local=_over_features, fresh=True)


class NormalizationStep(Step):
    """`c_in = (c − mean(c)) / σ`, which is `R_i = a_i (s_i − mean(s))`, `s = R / (a − mean(a))`."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        if "R" in self.forms or rule.divides:
            self.read(node)
        self.emits = C

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "c"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (ZeroRule, EpsilonRule, LayerNormRule, NormRule)):
            raise cannot_serve(
                node, rule, "a normalization has no weights; use LayerNormRule(), ZeroRule() or PassRule()."
            )

    def run(self, tape: Tape) -> Tensor:
        """Saves `1/σ`, so that the input need not be kept."""
        value, rstd = normalize_with_statistics(tape.values[self.sources[0]], *self.node.args[1:])  # type: ignore[arg-type]
        tape.saved[self.node] = rstd.to(tape.dtype)
        return value

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        (source,) = self.sources
        dims, groups, _, *centre = self.node.args[1:]
        c = group(self.factored(message, tape), int(groups))  # type: ignore[arg-type]
        if centre in ([], [True]):
            c = c - c.mean(tuple(dims), keepdim=True)  # type: ignore[arg-type]
        return [(source, Message((c * tape.saved[self.node]).reshape(tape.shapes[source])))]

"""Normalizations: statistics count as constants, centring is a linear map (LN-rule, Ali et al. 2022).

Captured norms are rewritten to `normalize` followed by `scale`, so only the normalization proper is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relprop.functions import group, statistics
from relprop.graph import Node
from relprop.ops.registry import register
from relprop.ops.step import Preference, Step, cannot_serve
from relprop.rules import EpsilonRule, LayerNormRule, NormRule, Rule, ZeroRule
from relprop.tape import C, Form, Forms, Message, Tape

register("normalize", "normalization")


class NormalizationStep(Step):
    """`c_in = (c − mean(c)) / σ`, which is `R_i = a_i (s_i − mean(s))`, `s = R / (a − mean(a))`."""

    def __init__(self, node: Node, rule: Rule, forms: Forms, prefers: Mapping[Node, Form]) -> None:
        super().__init__(node, rule, forms, prefers)
        self.read(*self.sources)
        if "R" in forms or isinstance(rule, EpsilonRule):
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

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        (source,) = self.sources
        c = self.factored(message, tape)
        x, dims, groups, eps = tape.value(source), *self.node.args[1:4]
        centre = bool(self.node.args[4]) if len(self.node.args) > 4 else True
        grouped = group(x, int(groups))  # type: ignore[arg-type]
        _, rstd = statistics(grouped, dims, float(eps), centre)  # type: ignore[arg-type]
        c = c.reshape(grouped.shape)
        centred = c - c.mean(tuple(dims), keepdim=True) if centre else c  # type: ignore[arg-type]
        return [(source, Message((centred * rstd).reshape(x.shape)))]

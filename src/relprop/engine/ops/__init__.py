"""What each ATen operator is, a file per family, and how relevance goes back through it.

What may live here: rows of the operator table, and the steps that serve them. Nothing that changes a graph.
"""

from __future__ import annotations

from collections.abc import Mapping

from relprop.engine.graph.graph import Node, data_inputs
from relprop.engine.ops import source  # noqa: F401  (fills the table)
from relprop.engine.ops.activation import ActivationStep, PassStep
from relprop.engine.ops.affine import AffineStep
from relprop.engine.ops.attention import AttentionStep, SoftmaxStep
from relprop.engine.ops.maximum import MaxStep, ShareOfWindowStep, SoftMaximumStep
from relprop.engine.ops.movement import MovementStep
from relprop.engine.ops.normalization import NormalizationStep
from relprop.engine.ops.own import OwnStep
from relprop.engine.ops.product import ProductStep, is_product
from relprop.engine.ops.recurrent import GateStep
from relprop.engine.ops.registration import register_op
from relprop.engine.ops.registry import Op, known_operators, lookup
from relprop.engine.ops.rotary import RotaryStep
from relprop.engine.ops.statistic import StatisticStep
from relprop.engine.ops.step import Plan, Step
from relprop.engine.ops.tape import Form, Message, Tape
from relprop.engine.ops.unit import UnitStep
from relprop.rules import NormRule, PassRule, ProductRule, Rule

FAMILIES: dict[str, type[Step]] = {
    "activation": ActivationStep,
    "affine": AffineStep,
    "attention": AttentionStep,
    "gate": GateStep,
    "max": MaxStep,
    "movement": MovementStep,
    "normalization": NormalizationStep,
    "product": ProductStep,
    "soft maximum": SoftMaximumStep,
    "softmax": SoftmaxStep,
    "statistic": StatisticStep,
    "sum": AffineStep,
    "unit": UnitStep,
}

__all__ = [
    "Message",
    "Op",
    "Plan",
    "Step",
    "Tape",
    "bind",
    "check",
    "known_operators",
    "lookup",
    "preferred_form",
    "register_op",
]


def step_type(node: Node, rule: Rule) -> type[Step]:
    """The kind of step that serves a node under a rule."""
    op = lookup(node)
    assert op is not None
    if op.step is not None:
        return op.step  # type: ignore[no-any-return]
    if isinstance(rule, PassRule) and op.family not in {"activation", "movement"}:
        return PassStep
    if is_product(node):
        return ProductStep
    if isinstance(rule, ProductRule) and op.family == "affine":
        return RotaryStep
    if isinstance(rule, NormRule) and op.family == "max":
        return ShareOfWindowStep
    return FAMILIES[op.family]


def check(node: Node, rule: Rule) -> None:
    """Raise `RuleError` where a rule cannot serve a node."""
    step_type(node, rule).check(node, rule)


def bind(node: Node, rule: Rule, plan: Plan) -> Step:
    """The step of a node, entered into the plan."""
    kind, op = step_type(node, rule), lookup(node)
    own = op is not None and op.step is not None
    step = plan.steps[node] = OwnStep(kind, node, rule, plan) if own else kind(node, rule, plan)
    for asked in step.sources:
        plan.forms[asked] = plan.forms.get(asked, frozenset()) | step.emits
    return step


def preferred_form(node: Node, rule: Rule, prefers: Mapping[Node, Form]) -> Form:
    """In which form a node likes its relevance; nodes that only pass it on ask their inputs."""
    preference = step_type(node, rule).preference(node, rule)
    if preference != "source":
        return preference
    asked = {prefers[s] for s in data_inputs(node)}
    return "c" if "c" in asked else "R"

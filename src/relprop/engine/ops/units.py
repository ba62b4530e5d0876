"""Modules that a user registered: their inside is captured as one operator, a `Unit`, with a rule of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph

from relprop.engine.graph.graph import Node, where_is
from relprop.engine.ops.tables import Registration
from relprop.errors import RuleError
from relprop.rules import AffineRule, FunctionRule, PassRule, Rule, ZeroRule

_REGISTERED: dict[type[nn.Module], Rule] = {}


class Unit:
    """Several operators run as one: a registered module's, or those of a spelled-out activation.

    Attributes:
        rule: the rule that the module was registered with.
        family: `"unit"`, or `"activation"` for an elementwise function of the first input.
    """

    def __init__(self, name: str, graph: FxGraph, rule: Rule, family: str = "unit") -> None:
        self.__name__ = name
        self.rule = rule
        self.family = family
        self._graph = torch.fx.GraphModule(nn.Module(), graph)

    def __call__(self, *inputs: Any) -> Tensor:
        result: Tensor = self._graph(*inputs)
        return result

    def __repr__(self) -> str:
        return self.__name__


OwnRule = Rule | Callable[..., Tensor | Sequence[Tensor]] | None
"""A rule for a module as a whole; a function is made one, and None is the 0-rule."""


def register_module(module_type: type[nn.Module], *, rule: OwnRule = None) -> Registration:
    """Treat every module of a class as one layer, whatever is inside.

    Args:
        module_type: the class; subclasses count too, unless they are registered themselves.
        rule: `ZeroRule()` (or `EpsilonRule`), the default: the 0-rule by automatic differentiation,
            `R_i = a_i Σ_j ∂z_j/∂a_i · R_j / z_j`; `PassRule()`; or a function
            `rule(forward, inputs, output, relevance) -> relevance of the inputs` (a tensor, or one for each input).

    Holds for the whole process, for models captured afterwards, until the entry is removed; `LRP(..., modules=...)`
    says the same for one analyzer. What a module keeps, as it is not linear or because the function says so, shows in
    the ledger as `module`.

    Returns:
        The entry: `.remove()` takes it back, and it serves as a context manager.

    Raises:
        RuleError: the rule can serve no module as a whole. (A module with several outputs is a CaptureError when a
            model that holds it is captured.)

    Examples:
        >>> import torch, relprop as rp
        >>> class Gate(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x * torch.special.i0(x)
        >>> with rp.register_module(Gate, rule=rp.rules.PassRule()):
        ...     rp.LRP(torch.nn.Sequential(Gate()))(torch.tensor([[1.0, 2.0]]), target=1).relevance
        tensor([[0., 1.]])
    """
    return Registration(_REGISTERED, module_type, rule_of_module(module_type, rule))


def rule_of_module(module_type: type[nn.Module], rule: OwnRule) -> Rule:
    """What a user gave for a class of modules as a rule.

    Raises:
        RuleError: as in `register_module`.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise RuleError(f"register_module takes a class of modules, got {module_type!r}.")
    chosen = ZeroRule() if rule is None else rule if isinstance(rule, Rule) else FunctionRule(rule)
    unmodified = isinstance(chosen, AffineRule) and chosen.unmodified
    if not isinstance(chosen, (PassRule, FunctionRule)) and not unmodified:
        raise RuleError(
            f"register_module({module_type.__name__}): {chosen!r} modifies weights, which a module as a whole does not "
            "have. Use ZeroRule(), EpsilonRule(), PassRule(), or a function."
        )
    return chosen


def own_modules(modules: Mapping[type[nn.Module], OwnRule] | None) -> dict[type[nn.Module], Rule]:
    """The modules that one analyzer treats as one layer, beside those registered for the process."""
    return {kind: rule_of_module(kind, rule) for kind, rule in (modules or {}).items()}


def registered_modules() -> tuple[tuple[type[nn.Module], Rule], ...]:
    """The classes that are registered for the whole process, with their rules."""
    return tuple(_REGISTERED.items())


def registered_rule(kind: type[nn.Module], own: Mapping[type[nn.Module], Rule] | None = None) -> Rule | None:
    """The rule that a class of modules was registered with, or the closest of its bases; `own` ones come first."""
    tables = (own or {}, _REGISTERED)
    return next((table[base] for table in tables for base in kind.__mro__ if base in table), None)


def unit_of(node: Node) -> Unit | None:
    """The registered module that a node runs."""
    return node.target if isinstance(node.target, Unit) and node.target.family == "unit" else None


def check_function_result(node: Node, result: object, shapes: Mapping[Node, torch.Size]) -> list[Tensor]:
    """What a user's rule function returned, one tensor for each input."""
    found = list(result) if isinstance(result, (list, tuple)) else [result]
    expected = list(shapes.values())
    if len(found) != len(expected) or any(
        not isinstance(r, Tensor) or r.shape != s for r, s in zip(found, expected, strict=False)
    ):
        got = [tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__ for r in found]
        raise RuleError(
            f"The rule function of {where_is(node)} must return relevance shaped like its inputs "
            f"{[tuple(s) for s in expected]}, got {got}."
        )
    return found  # type: ignore[return-value]

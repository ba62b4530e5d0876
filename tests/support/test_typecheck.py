"""Annotations are checked while these tests run: in every module inside, and in deed in each room."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from support.typecheck import INSIDE

import relprop
from relprop.errors import RuleError
from relprop.explanations.ledger import Entry
from relprop.rules import SoftmaxRule, ZeroRule
from relprop.targets import Largest


def modules_inside() -> list[ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(relprop.__path__, "relprop.")]
    return [importlib.import_module(n) for n in names if any(f"{n}.".startswith(f"{inside}.") for inside in INSIDE)]


def test_every_function_inside_is_checked() -> None:
    """A module that was imported before the hook was set, or a name that no room has anymore, would go unnoticed."""
    modules = modules_inside()
    for inside in INSIDE:
        assert importlib.util.find_spec(inside) is not None, inside
        assert any(module.__name__.startswith(inside) for module in modules), inside
    for module in modules:
        assert "jaxtyping" in type(module.__spec__.loader).__module__, module.__name__  # type: ignore[union-attr]
        for name, made in vars(module).items():
            if inspect.isfunction(made) and made.__module__ == module.__name__:
                assert hasattr(made, "__wrapped__"), f"{module.__name__}.{name}"


WRONG: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "engine/graph": ("engine.graph.graph", "operator_name", ("relu",)),
    "engine/ops": ("engine.ops.tape", "masked_product", (1.0, 2.0)),
    "engine/rewrites": ("engine.rewrites.lowering", "lower", ("a graph",)),
    "engine/program": ("engine.program.program", "last_readers", ("a graph", 1)),
    "engine/layers": ("engine.layers.layers", "describe", ("a module",)),
    "explanations/ledger": ("explanations.ledger", "Ledger", (["a list, not a tuple"], 1.0, 1.0)),
    "rules/base": ("rules.base", "same_fields", ("a rule", "another")),
    "rules": ("rules.stabilizer", "stabilize", (1.0, 1e-9)),
    "targets": ("targets.names", "resolve_target", (1, None, 2)),
}
"""Room -> a module, what is called there, and what it must not be called with."""


@pytest.mark.parametrize("room", WRONG)
def test_a_wrong_type_is_refused(room: str) -> None:
    module, name, arguments = WRONG[room]
    with pytest.raises(TypeCheckError):
        getattr(importlib.import_module(f"relprop.{module}"), name)(*arguments)


def test_every_room_of_the_engine_has_its_case() -> None:
    rooms = {module.__name__.removeprefix("relprop.").split(".")[1] for module in modules_inside() if is_a_room(module)}
    assert rooms == {room.removeprefix("engine/") for room in WRONG if room.startswith("engine/")}


def is_a_room(module: ModuleType) -> bool:
    return module.__name__.startswith("relprop.engine.") and hasattr(module, "__path__")


def test_a_wrong_shape_is_refused_too() -> None:
    """A target's seed wants one index for each of the two samples."""
    start = Largest().seed(torch.rand(2, 3), torch.tensor([0, 2]), normalize=True)
    assert start.tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(TypeCheckError):
        Largest().seed(torch.rand(2, 3), torch.tensor([0, 2, 1]), normalize=True)


def test_what_users_make_says_itself_what_is_wrong() -> None:
    """A checked constructor would refuse the argument first, in the type checker's words."""
    with pytest.raises(RuleError, match="none of"):
        SoftmaxRule("all")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        Entry(1, "conv2d", "m", ZeroRule(), 1.0, 1.0, {}, 1.0)  # type: ignore[arg-type]

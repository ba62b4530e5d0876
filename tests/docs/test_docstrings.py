"""Every name without an underscore says what it is. A method may leave that to the base class that it overrides."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

import relprop

MODULES = ["relprop", *(found.name for found in pkgutil.walk_packages(relprop.__path__, "relprop."))]
MODULES = [name for name in MODULES if not name.endswith("__main__")]  # importing it would run it


def silent_methods(kind: type, protocols: list[type]) -> Iterator[str]:
    """Methods that a class defines, and of which neither it nor a base nor a protocol beside it says anything."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and isinstance(value, (FunctionType, property, classmethod, staticmethod)):
            same = [vars(base)[name] for base in (*kind.__mro__, *protocols) if name in vars(base)]
            if not any(method.__doc__ for method in same):
                yield f"{kind.__name__}.{name}"


def undocumented(module: ModuleType) -> list[str]:
    """Names that a module defines and says nothing about."""
    missing = [] if module.__doc__ else [module.__name__]
    protocols = [value for value in vars(module).values() if getattr(value, "_is_protocol", False)]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, (FunctionType, type)) and not value.__doc__:
            missing.append(name)
        if isinstance(value, type):
            missing += silent_methods(value, protocols)
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str):
    assert undocumented(importlib.import_module(name)) == []


def test_a_method_is_found_that_neither_class_documents():
    class Base:
        """A base."""

        def told(self) -> None:
            """What it does."""

        def untold(self) -> None:
            pass

    class Own(Base):
        """A class with four methods."""

        def told(self) -> None:
            pass

        def untold(self) -> None:
            pass

        @classmethod
        def of_class(cls) -> None:
            pass

        @property
        def value(self) -> int:
            return 1

    module = ModuleType("made")
    module.__doc__ = "A module."
    Own.__module__ = "made"
    module.Own = Own  # type: ignore[attr-defined]
    assert undocumented(module) == ["Own.untold", "Own.of_class", "Own.value"]

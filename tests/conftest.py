"""Types and shapes are checked while tests run: beartype reads the annotations of what is inside the house.

Public entrances (`LRP`, rules, composites) check their arguments themselves and are tested with wrong ones.
"""

from __future__ import annotations

import pytest
import support.typecheck  # noqa: F401  (the hook looks it up by name)
import torch
from jaxtyping import install_import_hook

INSIDE = ("engine", "explanations.ledger", "rules.modifiers", "rules.stabilizer", "targets")
hook = install_import_hook([f"relprop.{name}" for name in INSIDE], "support.typecheck.typechecked")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test draws the same numbers, whatever ran before it in its process; so do the fixtures that it sets up."""
    torch.manual_seed(0)

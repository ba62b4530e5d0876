"""Types and shapes are checked while tests run: beartype reads the annotations of what is inside the house.

Public entrances (`LRP`, composites, models, constructors of rules and targets) check their arguments themselves and
are tested with wrong ones. tests/support/typecheck.py lists what is inside; tests/support/test_typecheck.py shows that
it is checked.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from jaxtyping import install_import_hook
from support.typecheck import INSIDE
from support.versions import OLDEST, depends_on_versions

hook = install_import_hook(INSIDE, "support.typecheck.typechecked")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if depends_on_versions(item.path):
            item.add_marker(pytest.mark.versions)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test draws the same numbers, whatever ran before it in its process; so do the fixtures that it sets up."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """What the export of the oldest PyTorch cannot do, and relprop refuses for that reason, is skipped."""
    from relprop.errors import CaptureError  # behind the hook above, which has to see every import

    try:
        return (yield)
    except CaptureError as error:
        if OLDEST and "captures less" in str(error):
            pytest.skip(f"torch {torch.__version__} cannot export it")
        raise

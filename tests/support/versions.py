"""Which tests other versions of torch, transformers and Python may break: `make test-oldest` and the like run them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
ROOMS = ("analyzers", "conformance", "engine/graph", "engine/program", "engine/rewrites", "oracles", "targets")


def depends_on_versions(file: Path) -> bool:
    """Whether a test file lies in one of these rooms."""
    return any(file.is_relative_to(TESTS / room) for room in ROOMS)


OLDEST = torch.__version__.startswith("2.6.")
export_refuses = pytest.mark.skipif(OLDEST, reason="torch 2.6 cannot export it")
BEFORE_2_13 = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 13)
from_2_13 = pytest.mark.skipif(BEFORE_2_13, reason="PyTorch itself cannot do it before 2.13")

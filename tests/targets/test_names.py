"""Classes by name."""

from __future__ import annotations

import pytest

from relprop.errors import TargetError
from relprop.targets.names import resolve_target


def test_classes_of_one_name_need_an_index():
    with pytest.raises(TargetError, match=r"2 classes are named 'crane': give one of the indices \[0, 2\]"):
        resolve_target("crane", ["crane", "cat", "Crane"], 3)

"""Classes by name."""

from __future__ import annotations

import pytest

from relprop.errors import TargetError
from relprop.targets.names import resolve_target


def test_classes_of_one_name_need_an_index():
    with pytest.raises(TargetError, match=r"2 classes are named 'crane': give one of the indices \[0, 2\]"):
        resolve_target("crane", ["crane", "cat", "Crane"], 3)


CATS = ["tabby, tabby cat", "tiger cat", "Egyptian cat", "catamaran", "tiger", "polecat, fitch", "tiger shark"]


def test_a_part_of_a_name_that_one_class_has_is_enough():
    assert resolve_target("tabby", CATS, 7) == 0
    assert resolve_target("egyptian", CATS, 7) == 2
    assert resolve_target("Tiger", CATS, 7) == 4  # the whole name comes first
    assert resolve_target("fitch", CATS, 7) == 5


def test_a_part_of_several_names_offers_all_of_them():
    with pytest.raises(
        TargetError, match=r"'cat' is a part of 3 class names: 'tabby, tabby cat' \(0\), 'tiger cat' \(1\), 'E"
    ):
        resolve_target("cat", CATS, 7)
    with pytest.raises(TargetError, match=r"'q 7' \(7\), and 12 more\. Give one of them, or its number"):
        resolve_target("q", [f"q {i}" for i in range(20)], 20)


def test_letters_inside_of_words_are_offered_first_and_not_taken():
    with pytest.raises(TargetError, match=r"no class is named 'cata'; did you mean catamaran"):
        resolve_target("cata", CATS, 7)
    with pytest.raises(TargetError, match="did you mean concatenated or ca"):
        resolve_target("cat", ["cart", "car", "concatenated"], 3)
    with pytest.raises(TargetError, match="no class is named ' '"):
        resolve_target(" ", CATS, 7)

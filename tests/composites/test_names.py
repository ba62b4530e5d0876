"""Composites by name: one table, of which every row makes a composite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop.composites import Composite, EpsilonGammaBox
from relprop.composites.names import DEFAULTS, TABLE, Given, check_composite, composite_names, make_composite
from relprop.errors import CompositeError

BOUNDS = torch.full((1, 3, 1, 1), -2.0), torch.full((1, 3, 1, 1), 2.0)


def test_every_row_makes_a_composite_and_stands_once():
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    for row in TABLE:
        assert row.kinds
        assert isinstance(row.make(Given(nn.Linear(1, 1), *BOUNDS)), Composite)


def test_the_box_gets_the_bounds():
    made = make_composite("epsilon-gamma-box", Given(nn.Linear(1, 1), *BOUNDS), "pictures")
    assert str(made) == str(EpsilonGammaBox(*BOUNDS))


@pytest.mark.parametrize("kind", DEFAULTS)
def test_names_of_the_other_kind_are_refused(kind):
    check_composite(DEFAULTS[kind], kind)
    for other in {row.name for row in TABLE} - set(composite_names(kind)) | {"", "plus"}:
        with pytest.raises(
            CompositeError, match=f"unknown composite '{other}'.*choose one of {composite_names(kind)[0]},"
        ):
            make_composite(other, Given(nn.Linear(1, 1)), kind)

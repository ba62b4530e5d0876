"""The program as text, and which values and constants it knows."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from support.compare import assert_each_close
from support.networks import small
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.engine.program.program import MOST_SCHEDULES


def test_program_prints_as_text() -> None:
    lrp = LRP(small(), EpsilonPlusFlat(), example_inputs=(torch.rand(2, 3, 12, 12),))
    text = str(lrp._latest.program)  # type: ignore[union-attr]
    lines = text.splitlines()
    assert lines[0].startswith("R[flatten] += EpsilonRule(epsilon=1e-06) of linear")
    assert lines[-1].startswith("R[input] += FlatRule() of conv2d")


def test_a_schedule_is_made_once_for_what_is_kept_and_few_are_held() -> None:
    lrp = LRP(small(), EpsilonPlusFlat(), example_inputs=(torch.rand(2, 3, 12, 12),))
    program = lrp._latest.program  # type: ignore[union-attr]
    plain, more = program.reads, program.reads | set(program.operators)
    assert program.schedule(program.operators, plain) is program.schedule(program.operators, plain)
    assert program.schedule(program.operators, plain).in_place != program.schedule(program.operators, more).in_place
    part = program.operators[:3]
    assert program.schedule(part, plain).released.keys() == set(part)
    for nodes in combinations(program.graph.fx.nodes, 2):
        program.schedule(program.operators, frozenset(nodes))
        assert 0 < len(program._schedules) <= MOST_SCHEDULES


def test_a_tensor_that_only_lends_its_shape_need_not_be_there_anymore() -> None:
    class Like(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(self.linear(x))

    assert_each_close(LRP(Like())(torch.ones(2, 3), target=0).relevance, torch.full((2, 3), 1 / 3))


def test_the_name_of_a_constant_is_found_however_many_paths_lead_to_it() -> None:
    """Two to the power of forty paths lead from the shift that is added to the parameter that it comes from."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            shift = self.offset * 1
            for _ in range(40):
                shift = shift * 0.25 + shift * 0.75
            return x[:, :1] + shift

    expl = LRP(Deep())(torch.ones(2, 1), target=0, audit=True)
    assert expl.ledger is not None
    assert expl.ledger.sinks["offset"] == pytest.approx(1.0)

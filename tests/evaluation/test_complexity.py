"""Complexity and stability, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from relprop.errors import InputError
from relprop.evaluation.complexity import effective_complexity, entropy, gini
from relprop.evaluation.stability import sensitivity

EVEN, ONE, SOME = [1.0, -1.0, 1.0, -1.0], [0.0, 0.0, -5.0, 0.0], [1.0, -2.0, 3.0, 4.0]
RELEVANCE = torch.tensor([EVEN, ONE, SOME])


def test_entropy():
    some = -sum(a / 10 * math.log(a / 10) for a in (1, 2, 3, 4))
    assert entropy(RELEVANCE).tolist() == pytest.approx([math.log(4), 0, some])


def test_gini():
    # sorted 1, 2, 3, 4 with 2k - 5 = -3, -1, 1, 3: (-3 - 2 + 3 + 12) / (4 * 10)
    assert gini(RELEVANCE).tolist() == pytest.approx([0, 3 / 4, 1 / 4])
    assert gini(1e-6 * RELEVANCE).tolist() == pytest.approx(gini(RELEVANCE).tolist())


def test_effective_complexity():
    # 90 % of 10 is 9, which 4 + 3 + 2 hold
    assert effective_complexity(RELEVANCE).tolist() == [1, 1 / 4, 3 / 4]
    assert effective_complexity(RELEVANCE, 0.7).tolist() == [3 / 4, 1 / 4, 2 / 4]


@pytest.mark.parametrize("metric", [entropy, gini, effective_complexity])
def test_no_relevance_has_no_number(metric):
    assert metric(torch.zeros(2, 3, 3)).isnan().all()


def test_sensitivity_of_known_explanations():
    torch.manual_seed(0)
    x = torch.rand(3, 50, dtype=torch.float64)
    constant = sensitivity(torch.ones_like, x)
    assert constant.max.tolist() == constant.mean.tolist() == [0, 0, 0]
    # R = 3 x: the change is |δ| / |x|, at most radius (max - min) √n / |x|
    linear = sensitivity(lambda inputs: 3 * inputs, x, radius=0.1)
    bound = 0.1 * (x.amax(1) - x.amin(1)) * math.sqrt(50) / x.norm(dim=1)
    assert (linear.max < bound).all()
    assert (linear.max > 0.4 * bound).all()
    assert (linear.mean <= linear.max).all()
    double = sensitivity(lambda inputs: 3 * inputs, x, radius=0.2)
    torch.testing.assert_close(double.max, 2 * linear.max)
    with pytest.raises(InputError, match="floating point"):
        sensitivity(torch.ones_like, torch.ones(1, 2, dtype=torch.long))

"""Standard deviations, variances and norms as features, powers, missing values: what is data, and what a constant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, NameMap
from relprop.errors import InputError, RuleError
from relprop.rules import StopRule, ZeroRule, ZPlusRule

Feature = Callable[[Tensor], Tensor]


class Features(nn.Module):
    """A statistic of a linear map's output, beside its mean, under a linear head."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.feature = feature
        self.conv, self.head = nn.Conv1d(4, 8, 3, bias=False), nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head(torch.cat([h.mean(-1), self.feature(h)], -1))


def signal() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 4, 20, dtype=torch.float64)


def input_times_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(a).sum(), a)
    return (x * gradient).detach()


HOMOGENEOUS: dict[str, Feature] = {
    "std": lambda h: h.std(-1),
    "biased std": lambda h: h.std(-1, unbiased=False),
    "norm": lambda h: h.norm(dim=-1),
    "norm of order 1": lambda h: torch.linalg.vector_norm(h, 1, -1),
    "norm of order 3": lambda h: h.norm(3, -1),
    "largest magnitude": lambda h: torch.linalg.vector_norm(h, torch.inf, -1),
    "moved": lambda h: h.std(-1, keepdim=True).transpose(1, 2).flatten(1),
    "std_mean": lambda h: torch.std_mean(h, -1)[0],
    "root of a variance": lambda h: h.var(-1).sqrt(),
    "mean beside a variance": lambda h: torch.var_mean(h, -1)[1],
    "mean beside a deviation": lambda h: torch.std_mean(h, -1, keepdim=True)[1].squeeze(-1),
    "divided by what var_mean has": lambda h: (
        (lambda v: v[1] / (v[0] + 1).sqrt())(torch.var_mean(h.detach(), -1)) * h.mean(-1)
    ),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_a_statistic_of_degree_one_is_input_times_gradient(name: str) -> None:
    model, x = Features(HOMOGENEOUS[name]).double().eval(), signal()
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    expected = input_times_gradient(lambda a: model(a)[:, 1], x)
    assert_close(expl.relevance, expected, rtol=1e-6, atol=1e-9)
    assert_close(expl.relevance.sum((1, 2)), model(x)[:, 1].detach(), rtol=1e-6, atol=1e-9)
    assert expl.ledger.imbalance < 1e-7


def test_a_variance_is_shared_as_the_squares_that_it_is_made_of() -> None:
    spelled = Features(lambda h: (h - h.mean(-1, keepdim=True)).square().mean(-1)).double().eval()
    model = Features(lambda h: h.var(-1, unbiased=False)).double().eval()
    whole, parts = (LRP(m, normalize_output=False)(signal(), target=1, audit=True) for m in (model, spelled))
    assert_close(whole.relevance, parts.relevance, rtol=1e-6, atol=1e-9)
    assert whole.ledger.imbalance < 1e-7


@pytest.mark.parametrize("divide", [lambda h: h / h.std(-1, keepdim=True), lambda h: F.normalize(h, dim=-1)])
def test_a_statistic_that_is_divided_by_stays_a_constant(divide: Feature) -> None:
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(divide(self.first(x)))

    model, x = Divided().double().eval(), torch.randn(2, 5, dtype=torch.float64)
    h = model.first(x).detach()
    divisor = h[:, :1] / divide(h)[:, :1]
    expected = input_times_gradient(lambda a: model.head(model.first(a) / divisor)[:, 1], x)
    assert_close(LRP(model, normalize_output=False)(x, target=1).relevance, expected, rtol=1e-6, atol=1e-9)


def test_a_norm_over_the_mean_of_norms_stays_a_constant() -> None:
    """Global response normalization: the features take it all, as behind other norms."""

    class Response(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            norms = x.norm(dim=1, keepdim=True)
            return (x * (norms / (norms.mean(-1, keepdim=True) + 1e-6))).sum(1)

    x = torch.randn(2, 5, 3, dtype=torch.float64)
    norms = x.norm(dim=1, keepdim=True)
    expected = x * (norms / (norms.mean(-1, keepdim=True) + 1e-6))
    relevance = LRP(Response().eval(), normalize_output=False)(x, target=1).relevance
    assert_close(relevance, expected * torch.tensor([0, 1, 0]), rtol=1e-6, atol=1e-9)


def test_what_does_not_vary_has_a_deviation_of_zero_and_no_relevance() -> None:
    model, x = Features(lambda h: h.std(-1)).double().eval(), torch.ones(2, 4, 20, dtype=torch.float64)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert expl.relevance.isfinite().all()
    assert_close(expl.relevance.sum((1, 2)), model(x)[:, 1].detach(), rtol=1e-6, atol=1e-9)


def test_a_statistic_takes_no_rule_for_weights_but_may_be_stopped() -> None:
    model, x = Features(lambda h: h.std(-1)).double().eval(), signal()
    with pytest.raises(RuleError, match="std"):
        LRP(model, ZPlusRule())(x)
    stopped = LRP(model, Composite(ZeroRule(), NameMap({":std": StopRule()})), normalize_output=False)
    expected = input_times_gradient(lambda a: model.head(F.pad(model.conv(a).mean(-1), (0, 8)))[:, 1], x)
    assert_close(stopped(x, target=1).relevance, expected, rtol=1e-6, atol=1e-9)


class Net(nn.Module):
    def __init__(self, function: Feature) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.function = nn.Linear(4, 6), nn.Linear(6, 3, bias=False), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x).relu()))


@pytest.mark.parametrize(
    ("power", "same"),
    [
        (lambda h: 2**h, torch.exp2),
        (lambda h: torch.pow(torch.full((6,), 2.0, dtype=h.dtype), h), torch.exp2),
        (lambda h: h ** torch.ones(6, dtype=h.dtype), lambda h: h),
    ],
    ids=["number", "tensor", "exponents"],
)
def test_powers_are_the_functions_that_they_are(power: Feature, same: Feature) -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    found, right = (LRP(Net(f).double().eval())(x, target=0, audit=True) for f in (power, same))
    assert_close(found.relevance, right.relevance, rtol=1e-6, atol=1e-9)
    assert found.ledger.imbalance < 1e-7


def test_a_power_of_0_is_a_constant() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    model = Net(lambda h: h**0 + h).double().eval()
    expl = LRP(model, normalize_output=False)(x, target=0, audit=True)
    ones = float(model.head.weight[0].detach().sum()) * len(x)
    assert expl.ledger.sinks["constant"] == pytest.approx(ones, rel=1e-6)
    assert expl.ledger.imbalance < 1e-7


FILLED: dict[str, Feature] = {
    "where": lambda x: torch.where(x.isnan(), torch.linspace(-1, 1, 5, dtype=x.dtype), x),
    "masked_fill": lambda x: x.masked_fill(x.isnan(), 0.5),
    "nan_to_num": lambda x: torch.nan_to_num(x, nan=0.5),
    "reshaped": lambda x: (t := x.reshape(-1, 5, 1) * 2).masked_fill(t.isnan(), 0.5).flatten(1),
}


@pytest.mark.parametrize("way", FILLED)
def test_missing_values_get_nothing(way: str) -> None:
    class Imputing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.first(FILLED[way](x))))

    model, x = Imputing().double().eval(), torch.randn(2, 5, dtype=torch.float64)
    x[0, 1] = x[1, 3] = torch.nan
    expl = LRP(model, normalize_output=False, checks=False)(x, target=1, audit=True)
    filled = FILLED[way](x)
    expected = input_times_gradient(lambda a: model.head(F.relu(model.first(a)))[:, 1], filled)
    assert_close(expl.relevance, expected.masked_fill(x.isnan(), 0), rtol=1e-6, atol=1e-9)
    assert expl.ledger.imbalance < 1e-7
    with pytest.raises(InputError, match="checks=False"):
        LRP(model)(x, target=1)

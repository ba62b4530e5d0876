"""Relevance that grows, overflows or vanishes is said once, with the layer where it happened."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.explanations.ledger import Ledger
from relprop.rules import EpsilonRule, GeneralizedGammaRule, ZeroRule
from relprop.targets import Normalize


def cancelling(difference: float) -> nn.Sequential:
    """A second layer whose contributions cancel, but for `difference`."""
    first, second, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        second.weight.copy_(torch.tensor([[1.0, difference - 1]]))
        last.weight.fill_(1)
    return nn.Sequential(first, second, last).double()


X = torch.ones(1, 2, dtype=torch.float64)


def test_what_grows_is_named_once() -> None:
    lrp = LRP(cancelling(1e-5), ZeroRule())
    with pytest.warns(UserWarning, match=r"grew by a factor of 2e\+05 at 1 \(linear\), under ZeroRule") as said:
        expl = lrp(X, audit=True)
    assert said[0].filename == __file__
    assert expl.ledger is not None
    assert expl.ledger.steepest.module == "1"
    assert expl.ledger.steepest.growth == pytest.approx(2e5, rel=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp(X, audit=True)


def test_what_vanishes_is_named() -> None:
    model = cancelling(1.0)
    model[1].bias = nn.Parameter(torch.tensor([1e5], dtype=torch.float64))
    with pytest.warns(UserWarning, match=r"Of relevance only 1e-05 arrived: .* most of it bias at 1 \(linear\)"):
        LRP(model, EpsilonRule())(X, audit=True)


@pytest.mark.parametrize("difference", [0.5, 1e-2])
def test_nothing_is_said_of_what_is_well(difference: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expl = LRP(cancelling(difference), ZeroRule())(X, audit=True)
        LRP(cancelling(0.5), ZeroRule())(X, audit=True, conditions={"1": "stop"})
    assert expl.ledger is not None
    assert expl.ledger.trouble == ""


def test_the_remedy_helps() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expl = LRP(cancelling(1e-5), GeneralizedGammaRule(1.0))(X, audit=True)
    assert expl.ledger is not None
    assert expl.ledger.steepest.growth < 10


@pytest.mark.parametrize("normalize", ["magnitude", True, False])
def test_it_is_said_without_an_audit_once(normalize: Normalize) -> None:
    lrp = LRP(cancelling(1e-5), ZeroRule(), normalize_output=normalize)
    with pytest.warns(UserWarning, match=r"grew by a factor of 2e\+05 at 1 \(linear\), under ZeroRule") as said:
        lrp(X)
    assert [w.filename for w in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp(X)
        lrp(X, audit=True)


def test_what_overflows_and_what_vanishes_is_said_without_an_audit() -> None:
    vanishing = cancelling(1.0)
    vanishing[1].bias = nn.Parameter(torch.tensor([1e5], dtype=torch.float64))
    with pytest.warns(UserWarning, match="Of relevance only 1e-05 arrived"):
        LRP(vanishing, EpsilonRule()).each(X, targets=[0])
    large = cancelling(1e-5).float()
    nn.init.constant_(large[2].weight, 3e38)  # the output is 3e34
    with pytest.warns(UserWarning, match=r"Relevance overflowed at 1 \(linear\)"):
        LRP(large, ZeroRule(), normalize_output=False)(10 * X.float())


def test_a_later_call_is_looked_at() -> None:
    """Trouble may depend on the input: the second call is one that is looked at."""
    lrp, harmless = LRP(cancelling(1e-5), ZeroRule()), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrp(harmless)
    with pytest.warns(UserWarning, match="grew by a factor"):
        lrp(X)


def test_nothing_is_said_of_what_was_taken_away_or_not_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:  # nor is it looked into
            patch.setattr(Ledger, "trouble", property(lambda _: pytest.fail("there was an audit")))
            LRP(cancelling(0.5), ZeroRule())(X, conditions={"1": "stop"})
        LRP(cancelling(1e-5), ZeroRule())(X, start="1")
        LRP(cancelling(1e-5), ZeroRule(), checks=False)(X)
        LRP(cancelling(1e-5), GeneralizedGammaRule(1.0))(X)


def test_no_audit_takes_memory_that_a_checkpoint_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    lrp = LRP(cancelling(1e-5), ZeroRule(), checkpoint=2)
    monkeypatch.setattr(Ledger, "trouble", property(lambda _: pytest.fail("there was an audit")))
    with pytest.warns(UserWarning, match=r"far from what is explained.*A call with audit=True finds"):
        lrp(X)


def test_inputs_of_one_number_for_each_sample_are_looked_at() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return (x * scale[:, None]).sum(1, keepdim=True)

    expl = LRP(Scaled())(torch.rand(3, 4), torch.rand(3))
    assert expl.by_input["scale"].shape == (3,)

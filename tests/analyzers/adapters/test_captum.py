"""Analyzers in Captum's class form, called by Captum itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_close, assert_each_close
from support.networks import Tokens, cnn
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import Gradient, IntegratedGradients, Occlusion
from relprop.analyzers.adapters import CaptumAttribution, captum
from relprop.composites import EpsilonPlus
from relprop.errors import InputError, TargetError
from relprop.rules import EpsilonRule
from relprop.targets import LogOdds, Reference

X = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net() -> nn.Module:
    torch.manual_seed(5)
    return cnn().double().eval()


def lrp(model: nn.Module | None = None) -> LRP:
    return LRP(model or net(), EpsilonPlus(), normalize_output=False)


# ------------------------------------------------------------------------------------------ called by Captum


def test_noise_tunnel_averages_over_its_own_noise() -> None:
    attr, analyzer = pytest.importorskip("captum.attr"), lrp()
    tunnel, options = attr.NoiseTunnel(captum(analyzer)), {"nt_samples": 4, "stdevs": 0.2}
    torch.manual_seed(9)
    found, delta = tunnel.attribute(X, target=[0, 2, 1], return_convergence_delta=True, **options)
    torch.manual_seed(9)
    noisy = X.repeat_interleave(4, 0) + torch.normal(0, torch.tensor(0.2).repeat(12, 2, 8, 8))
    classes = torch.tensor([0, 2, 1]).repeat_interleave(4)
    expl = analyzer(noisy, target=classes)
    assert_close(found, expl.relevance.reshape(3, 4, 2, 8, 8).mean(1), rtol=1e-10)
    assert_close(delta, expl.amount - expl.relevance.sum((1, 2, 3)), rtol=1e-8)


def test_noise_tunnel_with_several_inputs_and_others_besides() -> None:
    attr = pytest.importorskip("captum.attr")
    method, (x, y, z) = captum(LRP(Three(), normalize_output=False)), torch.rand(3, 2, 4).double()
    options = {"nt_samples": 2, "stdevs": (0.0, 0.0), "additional_forward_args": (z, 3.0), "target": (1,)}
    found = attr.NoiseTunnel(method).attribute((x, y), **options)
    assert_each_close(found, method.attribute((x, y), target=1, additional_forward_args=(z, 3.0)), rtol=1e-10)


def test_captums_metrics_take_it() -> None:
    metrics = pytest.importorskip("captum.metrics")
    torch.manual_seed(0)
    method = captum(lrp())
    change = metrics.sensitivity_max(method.attribute, X, perturb_radius=0.01, n_perturb_samples=3, target=[1, 0, 2])
    assert change.shape == (3,)
    assert ((change > 0) & (change < 0.5)).all()


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_it_agrees_with_captums_lrp() -> None:
    """Its ε-rule leaves out no bias, and relevance starts with the output."""
    attr = pytest.importorskip("captum.attr")
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.rand(4, 6).double()
    for module in (model[0], model[2]):
        module.rule = rules.EpsilonRule(epsilon=1e-9)
    mine = LRP(model, EpsilonRule(1e-9), normalize_output=False)
    options: dict[str, Any] = {"target": [0, 1, 2, 1], "return_convergence_delta": True}
    found, delta = captum(mine).attribute(x, **options)
    expected, expected_delta = attr.LRP(model).attribute(x, **options)
    assert_close(found, expected, rtol=1e-5)
    assert_close(delta, expected_delta, rtol=1e-5)
    found = captum(mine, model[0]).attribute(x, target=1)
    assert_close(found, attr.LayerLRP(model, model[0]).attribute(x, target=1), rtol=1e-5)


# ------------------------------------------------------------------------------------------------ target forms


class Grid(nn.Module):
    """An output of two dimensions, (B, 3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).reshape(-1, 3, 4)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (1, [1, 1, 1]),
        ((1,), [1, 1, 1]),
        (torch.tensor(1), [1, 1, 1]),
        (torch.tensor([1]), [1, 1, 1]),
        ([0, 2, 1], [0, 2, 1]),
        (torch.tensor([0, 2, 1]), [0, 2, 1]),
        ([(0,), (2,), (1,)], [0, 2, 1]),
    ],
)
def test_targets_of_classes(target: Any, classes: list[int]) -> None:
    found = captum(lrp()).attribute(X, target=target)
    assert torch.equal(found, lrp()(X, target=torch.tensor(classes)).relevance)


def test_targets_of_outputs_with_more_dimensions() -> None:
    model, x = Grid().double(), torch.rand(2, 5).double()
    method = captum(LRP(model, normalize_output=False))
    assert_close(method.attribute(x, target=(1, -2)), x * model.body.weight[6].detach(), rtol=1e-7)
    weights = model.body.weight.detach()[[6, 11]]
    assert_close(method.attribute(x, target=[(1, -2), (2, 3)]), x * weights, rtol=1e-7)
    for wrong, says in (
        ([(1, 2)], "has \\(1, 2\\) indices"),
        ([(1, 2), (3, 0)], "target 3 is out of range: dimension 1"),
        ([(1, 2), (1, -5)], "target -5 is out of range: dimension 2"),
        ([1, (1, 2)], "in a list"),
        ([1.5, 2.0], "in a list"),
        ([], "in a list"),
    ):
        with pytest.raises(TargetError, match=says):
            method.attribute(x, target=wrong)


# ------------------------------------------------------------------------------------------------ the delta


@pytest.mark.parametrize("normalize", ["magnitude", True, False])
@pytest.mark.parametrize(
    "target", [None, [0, 2, 1], LogOdds(1), Reference(0.5, 2), lambda z: z], ids=lambda t: type(t).__name__
)
def test_the_delta_is_what_the_books_kept(normalize: Any, target: Any) -> None:
    analyzer = LRP(net(), EpsilonPlus(), normalize_output=normalize)
    found, delta = captum(analyzer).attribute(X, target=target, return_convergence_delta=True)
    given = torch.tensor(target) if isinstance(target, list) else target
    ledger = analyzer(X, target=given, audit=True).ledger
    assert ledger is not None
    assert delta.shape == (3,)
    assert float(delta.sum()) == pytest.approx(sum(ledger.sinks.values()), rel=1e-8)
    assert float(delta.sum()) == pytest.approx(ledger.output - float(found.sum()), rel=1e-8)
    assert delta.abs().min() > 1e-9


def test_the_delta_where_the_output_is_zero() -> None:
    """Relevance starts with 1 there."""
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    x = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()
    _, delta = captum(LRP(model, EpsilonRule(0.5))).attribute(x, target=0, return_convergence_delta=True)
    assert_close(delta, torch.tensor([1.0, 0.2], dtype=torch.float64), rtol=1e-12)  # 1 − (1 − 1)/0.5 and 1 − 2/2.5


# --------------------------------------------------------------------------------------- inputs and baselines


class Three(nn.Module):
    def forward(self, x: Tensor, y: Tensor, z: Tensor, factor: float = 1.0) -> Tensor:
        return factor * (x + 2 * y + 3 * z)


def test_additional_arguments_get_nothing_that_is_returned() -> None:
    x, y, z = torch.rand(3, 2, 4).double()
    method = captum(LRP(Three(), normalize_output=False))
    found, delta = method.attribute((x, y), target=1, additional_forward_args=(z, 3.0), return_convergence_delta=True)
    assert isinstance(found, tuple)
    assert_close(found[0][:, 1], 3 * x[:, 1], rtol=1e-8)
    assert_close(found[1][:, 1], 6 * y[:, 1], rtol=1e-8)
    assert_close(delta, 9 * z[:, 1], rtol=1e-8)
    one = method.attribute(x, target=1, additional_forward_args=(y, z))
    assert_close(one[:, 1], x[:, 1], rtol=1e-8)


def test_token_ids_and_a_mask() -> None:
    model, ids, mask = Tokens().eval(), torch.randint(0, 11, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    analyzer = LRP(model)
    found = captum(analyzer).attribute(ids, target=[0, 2], additional_forward_args=mask)
    assert torch.equal(found, analyzer(ids, mask, target=torch.tensor([0, 2])).relevance)
    with pytest.raises(InputError, match="no relevance of attention_mask"):
        captum(analyzer).attribute((ids, mask), target=1)


def test_baselines_are_references() -> None:
    attr, model = pytest.importorskip("captum.attr"), net()
    method, baseline = captum(IntegratedGradients(model, steps=30)), torch.rand(2, 8, 8).double()
    found = method.attribute(X, baselines=baseline, target=1)
    assert_close(found, IntegratedGradients(model, steps=30, reference=baseline)(X, target=1).relevance, rtol=1e-12)
    options = {"n_steps": 30, "method": "riemann_middle", "target": 1}
    theirs = attr.IntegratedGradients(model).attribute(X, baselines=baseline.expand_as(X), **options)
    assert_close(found, theirs, rtol=1e-6)  # its steps are float32
    assert method.analyzer.reference == 0.0  # type: ignore[attr-defined]
    found = captum(Occlusion(model, patch=4)).attribute(X, baselines=0.5, target=1)
    assert_close(found, Occlusion(model, patch=4, fill=0.5)(X, target=1).relevance, rtol=1e-12)
    with pytest.raises(InputError, match="LRP compares the input with nothing"):
        captum(lrp(model)).attribute(X, baselines=0.0, target=1)


# -------------------------------------------------------------------------------------------------- layers


def test_modules_as_layers() -> None:
    model = net()
    analyzer = lrp(model)
    expected = analyzer(X, target=torch.tensor([0, 2, 1]), layers=["0", "3", "3:input"]).layers
    one = captum(analyzer, model[3]).attribute(X, target=[0, 2, 1])
    assert torch.equal(one, expected["3"])
    inner = captum(analyzer, model[3]).attribute(X, target=[0, 2, 1], attribute_to_layer_input=True)
    assert torch.equal(inner, expected["3:input"])
    method = captum(analyzer, [model[0], "3"])
    several, deltas = method.attribute(X, target=[0, 2, 1], return_convergence_delta=True)
    assert isinstance(several, list)
    assert_each_close(several, [expected["0"], expected["3"]], rtol=1e-12)
    started = analyzer(X, target=torch.tensor([0, 2, 1])).amount
    assert started is not None
    assert_each_close(deltas, [started - r.sum((1, 2, 3)) for r in several], rtol=1e-8)


# ------------------------------------------------------------------------------------------------- its form


def test_it_says_what_captum_asks() -> None:
    model = net()
    assert captum(lrp(model)).forward_func is model
    assert captum(lrp(model)).has_convergence_delta()
    assert captum(lrp(model)).multiplies_by_inputs
    assert not captum(Gradient(model)).has_convergence_delta()
    assert not captum(Gradient(model)).multiplies_by_inputs


def test_it_has_what_an_attribution_has() -> None:
    attr = pytest.importorskip("captum.attr")
    public = {name for name in vars(attr.Attribution) if not name.startswith("_")}
    missing = public - set(dir(CaptumAttribution)) - {"attribute_future", "compute_convergence_delta"}
    assert not missing, missing


def test_what_makes_no_sense() -> None:
    model = net()
    with pytest.raises(InputError, match="takes an analyzer"):
        captum(model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no module inside of"):
        captum(lrp(model), nn.ReLU())
    with pytest.raises(InputError, match="for layers take LRP"):
        captum(Gradient(model), model[3])
    with pytest.raises(InputError, match="keeps no books"):
        captum(Gradient(model)).attribute(X, target=1, return_convergence_delta=True)

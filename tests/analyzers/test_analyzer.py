"""LRP as its users meet it: signatures, inputs, outputs, layers, books, errors."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.composites import EpsilonPlus, EpsilonPlusFlat
from relprop.errors import CaptureError, InputError, RuleError
from relprop.explanations.ledger import Entry
from relprop.rules import (
    EpsilonRule,
    FlatRule,
    LayerNormRule,
    PassRule,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    ).eval()  # fmt: skip


def test_one_capture_serves_every_batch_size() -> None:
    lrp, x = LRP(small(), EpsilonPlusFlat()), torch.rand(5, 3, 12, 12)
    together = lrp(x, target=1).relevance
    for sizes in ([1, 4], [2, 3], [1, 1, 1, 1, 1]):
        parts = torch.cat([lrp(part, target=1).relevance for part in x.split(sizes)])
        assert torch.allclose(parts, together, rtol=1e-4, atol=1e-7)
    assert len(lrp._prepared) == 1
    lrp(torch.rand(2, 3, 14, 14))
    assert len(lrp._prepared) == 2


def test_the_first_call_may_be_a_single_sample() -> None:
    lrp, x = LRP(small(), EpsilonPlusFlat()), torch.rand(3, 3, 12, 12)
    assert torch.allclose(lrp(x[:1], target=1).relevance, lrp(x, target=1).relevance[:1], rtol=1e-4, atol=1e-7)
    assert len(lrp._prepared) == 1


def test_a_model_bound_to_its_batch_size() -> None:
    class Bound(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(3, 2, 4).sum(1) if x.shape[0] == 3 else x[:, :4] * 2

    lrp = LRP(Bound())
    for batch in (1, 3, 2, 3, 5):
        x = torch.rand(batch, 8)
        expl = lrp(x, target=0)
        assert torch.equal(expl.output, Bound()(x))
        assert torch.allclose(expl.relevance.sum(1), torch.ones(batch))
    assert sum(map(len, lrp._prepared.values())) == 2  # one for three samples, one for all other numbers


def test_training_on_is_followed() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlusFlat())
    lrp(x, target=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.allclose(lrp(x, target=1).relevance, LRP(model, EpsilonPlusFlat())(x, target=1).relevance)
    other = small().state_dict()
    model.load_state_dict({k: v + 0.01 if v.is_floating_point() else v for k, v in other.items()})
    assert torch.allclose(lrp(x, target=1).relevance, LRP(model, EpsilonPlusFlat())(x, target=1).relevance)
    model.double()
    assert lrp(x.double(), target=1).relevance.dtype == torch.float64


def test_two_inputs_and_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor, *, y: Tensor) -> dict[str, Tensor]:
            return {"extra": x.sum(1), "logits": self.a(x) + self.b(y)}

    x, y = torch.rand(3, 3), torch.rand(3, 4)
    model = Two()
    expl = LRP(model)(x, y=y, target=0, audit=True)
    assert isinstance(expl.relevance, tuple)
    assert [tuple(r.shape) for r in expl.relevance] == [(3, 3), (3, 4)]
    assert torch.allclose(expl.output["logits"], model(x, y=y)["logits"])
    z = model.a.weight[0] * x / expl.output["logits"][:, :1]  # R_i = a_i w_i0 / z_0
    assert torch.allclose(expl.relevance[0], z, atol=1e-6)
    assert torch.allclose(sum(r.sum(1) for r in expl.relevance), torch.ones(3), atol=1e-5)


def test_variable_numbers_of_inputs() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, *more: Tensor, last: Tensor) -> Tensor:
            return x + sum(more) + last

    inputs = [torch.rand(2, 3) for _ in range(4)]
    expl = LRP(Many())(*inputs[:3], last=inputs[3], target=1)
    total = sum(i[:, 1] for i in inputs)
    for given, relevance in zip(inputs, expl.relevance, strict=True):
        assert torch.allclose(relevance[:, 1], given[:, 1] / total, atol=1e-6)


def test_captums_signature() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlus())
    assert torch.equal(lrp.attribute(x, target=2), lrp(x, target=2).relevance)
    attributed = lrp.attribute((x,), target=2)
    assert isinstance(attributed, tuple)
    assert torch.equal(attributed[0], lrp(x, target=2).relevance)


def test_normalize_output() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3, bias=False)), torch.rand(2, 4)
    sums = LRP(model, normalize_output=False)(x, target=1).relevance.sum(1)
    assert torch.allclose(sums, model(x)[:, 1], atol=1e-6)


def test_layers_are_those_of_the_outputs() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlus(bias="ignore"))
    expl = lrp(x, target=1, layers=True)
    assert list(expl.layers) == [str(i) for i in range(9)]
    shapes = {name: tuple(r.shape) for name, r in expl.layers.items()}
    assert shapes["0"] == shapes["1"] == (2, 4, 12, 12)
    assert shapes["8"] == (2, 5)
    for relevance in expl.layers.values():  # relevance is conserved from layer to layer
        assert torch.allclose(relevance.flatten(1).sum(1), torch.ones(2), atol=1e-3)
    assert list(lrp(x, layers="[45]").layers) == ["4", "5"]
    assert set(lrp(x, layers=["0", "8"]).layers) == {"0", "8"}
    with pytest.raises(InputError, match=r"layers='conv\*' matches no module"):
        lrp(x, layers="conv*")


def test_layers_of_containers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x))

    x = torch.rand(2, 1, 8, 8)
    expl = LRP(Net(), flatten=False)(x, layers=True)
    assert {name: tuple(r.shape) for name, r in expl.layers.items()} == {"features": (2, 2, 6, 6), "head": (2, 3)}
    named = LRP(Net())(x, layers=["features", "features.1", "head.*"]).layers
    assert torch.equal(named["features"], named["features.1"])
    assert set(named) == {"features", "features.1", "head.0", "head.1"}


def test_the_books_balance_and_name_the_sinks() -> None:
    """One linear layer by hand: z = 2·1 + 1·3 + 1 = 6, so the inputs get 2/6 and 3/6, the bias keeps 1/6."""
    layer = nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[2.0, 1.0]]), torch.tensor([1.0])
    expl = LRP(nn.Sequential(layer))(torch.tensor([[1.0, 3.0]]), audit=True)
    assert torch.allclose(expl.relevance, torch.tensor([[2 / 6, 3 / 6]]))
    ledger = expl.ledger
    assert ledger is not None
    (entry,) = ledger
    assert entry.sinks["bias"] == pytest.approx(1 / 6)
    assert (entry.received, entry.passed) == (pytest.approx(1), pytest.approx(5 / 6))
    assert ledger.output == pytest.approx(ledger.input + sum(ledger.sinks.values()))
    assert "bias 0.1667" in str(ledger)


def test_a_cooked_book_shows() -> None:
    entry = Entry("n", "conv2d", "m", ZeroRule(), 1.0, 0.5, {"bias": 0.3}, 2.0)
    assert entry.imbalance == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (nn.MaxPool2d(2), ZPlusRule()),
        (nn.MaxPool2d(2), FlatRule()),
        (nn.MaxPool2d(2), PassRule()),
        (nn.AvgPool2d(2), PassRule()),
        (nn.Conv2d(3, 3, 3), PassRule()),
        (nn.ReLU(), LayerNormRule()),
        (nn.GroupNorm(1, 3), FlatRule()),
        (nn.Upsample(scale_factor=2, mode="bilinear"), WSquareRule()),
        (nn.Upsample(scale_factor=2, mode="bicubic"), ZPlusRule()),
    ],
    ids=repr,
)
def test_a_rule_on_a_layer_that_it_cannot_serve(layer: nn.Module, rule: Any) -> None:
    with pytest.raises(RuleError) as raised:
        LRP(nn.Sequential(layer), [rule])(torch.rand(2, 3, 8, 8))
    assert type(rule).__name__ in str(raised.value)
    assert type(layer).__name__ in str(raised.value)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.rand(2, 1, 12, 12), "itself fails on inputs of shape"),
        (torch.rand(3, 12, 12), "itself fails on inputs of shape"),
        (torch.rand(0, 3, 12, 12), "empty batch"),
        (torch.rand(2, 3, 12, 12, dtype=torch.float64), r"Convert one: x\.to\(torch\.float32\)"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.uint8), "needs floating point inputs"),
        (torch.full((2, 3, 12, 12), float("nan")), "864 values that are NaN or infinite"),
        (torch.rand(2, 3, 12, 12) / torch.zeros(()), "NaN or infinite"),
        (torch.rand(2, 3, 12, 12, device="meta"), r"input is on meta, the model on cpu"),
        (None, "no tensor among the inputs"),
    ],
)
def test_bad_inputs(x: Any, says: str) -> None:
    lrp = LRP(small(), EpsilonPlusFlat())
    with pytest.raises(InputError, match=says):
        lrp(x)


def test_checks_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))
    with pytest.raises(rp.errors.SoftmaxOutputError):
        LRP(model)
    assert isinstance(LRP(small(), checks=False)(torch.full((2, 3, 12, 12), float("nan"))).relevance, Tensor)


def test_models_without_values_or_relevance() -> None:
    with pytest.raises(CaptureError, match="'meta' device"):
        LRP(nn.Linear(3, 2, device="meta"), checks=False)(torch.rand(2, 3))

    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    with pytest.raises(InputError, match="No output of the model depends"):
        LRP(Decides())(torch.rand(2, 3))
    with pytest.raises(InputError, match=r"takes a torch\.nn\.Module"):
        LRP(torch.relu)  # type: ignore[arg-type]


def test_a_capture_failure_says_where() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError) as raised:
        LRP(Branches())(torch.rand(2, 3))
    said = str(raised.value)
    assert "torch.export could not capture Branches" in said
    assert "test_analyzer.py" in said
    assert "x.sum() > 0" in said
    assert "torch.where" in said


def test_a_model_in_training_mode_is_explained_as_in_eval_mode() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    expected = LRP(model, EpsilonPlus())(x).relevance
    model.train()
    lrp = LRP(model, EpsilonPlus())
    with pytest.warns(UserWarning, match="explained as in evaluation mode"):
        relevance = lrp(x).relevance
    assert torch.equal(relevance, expected)
    assert all(m.training for m in model.modules())
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        lrp(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3])
def test_other_dtypes(dtype: torch.dtype, batch: int) -> None:
    x = torch.rand(batch, 3, 12, 12)
    expected = LRP(small(), EpsilonPlusFlat())(x, target=1).relevance
    with torch.no_grad():
        expl = LRP(small().to(dtype), EpsilonPlusFlat())(x.to(dtype), target=1, audit=True)
    assert expl.relevance.dtype == expl.output.dtype == dtype
    error = (expl.relevance.float() - expected).norm() / expected.norm()
    assert error < {torch.float64: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert expl.ledger is not None  # half precision rounds what the layers computed, and that shows in the books
    assert expl.ledger.imbalance < {torch.float64: 1e-10, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    x = torch.rand(3, 3, 12, 12)
    expected = LRP(small(), EpsilonPlusFlat())(x, target=1).relevance
    relevance = LRP(small().cuda(), EpsilonPlusFlat())(x.cuda(), target=1).relevance
    assert relevance.is_cuda
    assert torch.allclose(relevance.cpu(), expected, rtol=1e-3, atol=1e-6)


def test_zero_input_and_zero_weights_stay_finite() -> None:
    model = small()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for rules in (EpsilonPlusFlat(), rp.composites.EpsilonGammaBox(-1.0, 1.0), rp.composites.EpsilonAlpha2Beta1()):
            relevance = LRP(model.to(dtype), rules)(torch.zeros(2, 3, 12, 12, dtype=dtype)).relevance
            assert torch.isfinite(relevance).all()
        model.to(torch.float32)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.isfinite(LRP(model, EpsilonRule())(torch.rand(2, 3, 12, 12)).relevance).all()
    assert torch.isfinite(LRP(model, EpsilonPlusFlat())(torch.rand(2, 3, 12, 12)).relevance).all()


def test_program_prints_as_text() -> None:
    lrp = LRP(small(), EpsilonPlusFlat(), example_inputs=(torch.rand(2, 3, 12, 12),))
    text = str(lrp._latest.program)  # type: ignore[union-attr]
    lines = text.splitlines()
    assert lines[0].startswith("R[flatten] += EpsilonRule(epsilon=1e-06) of linear")
    assert lines[-1].startswith("R[input] += FlatRule() of conv2d") or "FlatRule()" in lines[-1]


def test_zbox_bounds_may_be_tensors_on_any_device() -> None:
    low, high = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 2.0)
    model, x = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2)), torch.rand(2, 3, 6, 6)
    by_tensor = LRP(model, [ZBoxRule(low, high), PassRule(), ZeroRule()])(x, target=0).relevance
    by_number = LRP(model, [ZBoxRule(-1.0, 2.0), PassRule(), ZeroRule()])(x, target=0).relevance
    assert torch.allclose(by_tensor, by_number, rtol=1e-5)

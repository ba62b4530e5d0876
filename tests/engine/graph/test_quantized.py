"""Models in quantization-aware training: rounding passes relevance, its scale is a constant; observers do nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn
from torch.ao import quantization as q

from relprop import LRP
from relprop.engine.graph.operators import round_to_steps
from relprop.errors import CaptureError


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says of torch.ao that torchao will follow
        yield


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.dequant = q.QuantStub(), q.DeQuantStub()
        self.convolution, self.relu, self.head = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.convolution(self.quant(x)))
        return self.dequant(self.head(h.flatten(1)))


def pictures(count: int) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def prepared(backend: str) -> nn.Module:
    """With scales from 16 pictures, and weights of one scale each (qnnpack) or one per channel (fbgemm)."""
    model = Network().train()
    model.qconfig = q.get_default_qat_qconfig(backend)
    model = q.prepare_qat(model)
    model(pictures(16))
    return model.eval().apply(q.disable_observer)


class Scaled(nn.Module):
    """`x · (f(x) / x)` with the quotient as a constant."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x == 0, 0.0, self.f(x) / x).detach()


def written_out(model: nn.Module) -> nn.Module:
    """The same network, piecewise linear for autograd: what rounds an activation scales it by a constant."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "activation_post_process") and not isinstance(module, q.FakeQuantizeBase):
            module.activation_post_process = Scaled(module.activation_post_process)
    return model


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_fake_quantization_passes_relevance(backend: str) -> None:
    model, a = prepared(backend), pictures(2).requires_grad_()
    assert model(a)[0, 1].item() != model.apply(q.disable_fake_quant)(a)[0, 1].item()
    model.apply(q.enable_fake_quant)
    expected = a * torch.autograd.grad(written_out(model)(a)[:, 1].sum(), a)[0]
    expl = LRP(model, normalize_output=False)(a.detach(), target=1, audit=True)
    assert_close(expl.output, model(a).detach(), rtol=1e-6)
    assert_close(expl.relevance, expected.detach(), rtol=1e-4)
    assert expl.ledger.imbalance < 1e-5


def test_switching_fake_quantization_off_is_followed() -> None:
    model, x = prepared("fbgemm"), pictures(2)
    lrp = LRP(model, normalize_output=False)
    lrp(x, target=1)
    model.apply(q.disable_fake_quant)
    expl = lrp(x, target=1)
    assert_close(expl.output, model(x).detach(), rtol=1e-6)
    assert_close(expl.relevance, LRP(model, normalize_output=False)(x, target=1).relevance, rtol=1e-6)


def test_fake_quantization_that_still_observes_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"observes.*model\.apply\(torch\.ao\.quantization\.disable_observer\)"):
        LRP(prepared("fbgemm").apply(q.enable_observer))(pictures(2), target=1)


def test_observers_are_looked_through() -> None:
    model = Network().eval()
    model.qconfig = q.get_default_qconfig("fbgemm")
    observed = q.prepare(model)
    x = pictures(2)
    before = copy.deepcopy(observed.state_dict())
    expl = LRP(observed)(x, target=1)
    assert_close(expl.relevance, LRP(Network())(x, target=1).relevance, rtol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in observed.state_dict().items())


class Rounding(nn.Module):
    """Fake quantization by its functions."""

    def __init__(self, round_: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.round = round_

    def forward(self, x: Tensor) -> Tensor:
        return self.round(x)


SCALES, ZEROS = torch.tensor([0.1, 0.25, 0.03]), torch.tensor([3, 0, -2], dtype=torch.int32)


@pytest.mark.parametrize(
    "round_",
    [
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -8, 7),
        lambda x: torch.fake_quantize_per_tensor_affine(x, SCALES[0], ZEROS[0], quant_min=-8, quant_max=7),
        lambda x: torch.fake_quantize_per_channel_affine(x, SCALES, ZEROS, 1, -8, 7),
    ],
)
def test_functions_of_fake_quantization(round_: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-2, 2, 240).reshape(20, 3, 4)
    expl = LRP(Rounding(round_), normalize_output=False)(x, target=torch.clone, audit=True)
    assert_close(expl.output, round_(x), rtol=1e-6)
    assert_close(expl.relevance, round_(x), rtol=1e-6)


def test_steps_are_those_of_pytorch() -> None:
    x = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    found = round_to_steps(x, SCALES, ZEROS, 1, -8, 7)
    assert_close(found, torch.fake_quantize_per_channel_affine(x, SCALES, ZEROS, 1, -8, 7), rtol=1e-6)

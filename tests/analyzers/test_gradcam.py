"""Grad-CAM against autograd on the module's output, and against Captum's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.networks import Residual, Tokens, cnn
from torch import Tensor, nn

from relprop.analyzers import GradCAM, NoiseAugmentation
from relprop.errors import InputError

X = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_hand(model: nn.Module, layer: nn.Module, x: Tensor, target: int, mode: str) -> tuple[Tensor, Tensor]:
    """The map, and what it is over the input."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    y = model(x.clone().requires_grad_())[:, target].sum()
    hook.remove()
    (g,) = torch.autograd.grad(y, kept[0])
    positions = tuple(range(2, x.dim()))
    small = F.relu((g.mean(positions, keepdim=True) * kept[0]).sum(1, keepdim=True)).detach()
    return small, F.interpolate(small, x.shape[2:], mode=mode)


@pytest.mark.parametrize(("layer", "number"), [(None, 3), ("3", 3), ("1", 1), ("2", 2)])
def test_it_is_the_formula(layer: str | None, number: int) -> None:
    torch.manual_seed(2)
    model = cnn().double()
    expl = GradCAM(model, layer)(X, target=1)
    small, large = by_hand(model, model[number], X, 1, "bilinear")
    assert small.any()
    assert_close(expl.layers[str(number)], small, rtol=1e-10)
    assert expl.relevance.shape == X.shape
    assert_close(expl.relevance.sum(1, keepdim=True), large, rtol=1e-10)
    assert torch.equal(GradCAM(model, model[number])(X, target=1).relevance, expl.relevance)


def test_a_batch_is_a_loop_and_others_go_around_it() -> None:
    analyzer = GradCAM(cnn().double())
    whole = analyzer(X).relevance
    for i in range(len(X)):
        assert_close(analyzer(X[i : i + 1]).relevance[0], whole[i], rtol=1e-12, atol=1e-15)
    assert_close(NoiseAugmentation(analyzer, noise=0.0, samples=2)(X).relevance, whole, rtol=1e-12)


def test_it_is_captums() -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(4)
    model = Residual().double().eval()
    for layer in (model.conv1, model.conv2, model.norm2):
        expected = captum.LayerGradCam(model, layer).attribute(X, target=2, relu_attributions=True)
        (found,) = GradCAM(model, layer)(X, target=2).layers.values()
        assert expected.any()
        assert_close(found, expected, rtol=1e-10)


def test_signals_and_volumes() -> None:
    for conv, x, mode in (
        (nn.Conv1d(2, 3, 3), torch.rand(2, 2, 9), "linear"),
        (nn.Conv3d(2, 3, 3), torch.rand(2, 2, 5, 5, 5), "trilinear"),
    ):
        model, x = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double(), x.double()
        model(x)
        expl = GradCAM(model)(x, target=1)
        assert_close(expl.relevance.sum(1, keepdim=True), by_hand(model, conv, x, 1, mode)[1], rtol=1e-10)


def test_what_makes_no_sense() -> None:
    model = cnn().double()
    with pytest.raises(InputError, match="finds no convolution"):
        GradCAM(nn.Linear(3, 2))(torch.rand(2, 3))
    with pytest.raises(InputError, match="matches no module"):
        GradCAM(model, "nowhere")(X)
    with pytest.raises(InputError, match="is no module inside of Sequential"):
        GradCAM(model, nn.ReLU())
    with pytest.raises(InputError, match="fits 3 modules"):
        GradCAM(model, "[123]")(X)
    with pytest.raises(InputError, match="needs a layer with positions"):
        GradCAM(model, "7")(X)
    with pytest.raises(InputError, match="lays a map"):
        GradCAM(Tokens().eval(), "out")(torch.randint(0, 11, (2, 6)), torch.ones(2, 6, dtype=torch.long))

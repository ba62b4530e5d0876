"""TorchScript models are explained as the modules are that they were made of, and stay as they are."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.gradients import input_times_gradient
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.errors import CaptureError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def network() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Flatten())
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_mean)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, inner, nn.Linear(4 * 36, 5)).eval()


def loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

MADE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "scripted": torch.jit.script,
    "traced": lambda m: torch.jit.trace(m, X),
    "loaded": loaded,
    "in training mode": lambda m: torch.jit.script(m.train()),
    "frozen": lambda m: torch.jit.freeze(torch.jit.script(m)),
    "inside of another": lambda m: nn.Sequential(torch.jit.script(m), nn.Identity()),
}


@pytest.mark.parametrize("kind", MADE)
def test_it_is_explained_as_what_it_was_made_of(kind: str) -> None:
    script, plain = MADE[kind](network()), network()
    before = {name: t.clone() for name, t in script.state_dict().items()}
    modes = [getattr(m, "training", None) for m in script.modules()]
    with torch.random.fork_rng():
        lrp = LRP(script, EpsilonPlus())
        found = [lrp(x).relevance for x in (X, X[:1])]
    assert_close(found[0], LRP(plain, EpsilonPlus())(X).relevance, rtol=1e-5)
    assert_close(found[1], found[0][:1], rtol=1e-5)
    assert all(torch.equal(t, before[name]) for name, t in script.state_dict().items())
    assert [getattr(m, "training", None) for m in script.modules()] == modes


def test_layers_have_the_names_and_types_of_the_modules() -> None:
    lrp = LRP(torch.jit.script(network()), EpsilonPlus(), example_inputs=(X,))
    rows = [(layer.name, layer.module_type) for layer in lrp.layers if ":" not in layer.name]
    assert rows == [("0", nn.Conv2d), ("1", nn.BatchNorm2d), ("3", nn.Linear)]
    assert "0: Conv2d " in str(lrp)
    frozen = LRP(torch.jit.freeze(torch.jit.script(network())), EpsilonPlus(), example_inputs=(X,))
    assert [layer.name for layer in frozen.layers] == [":conv2d", ":relu", ":linear"]


@pytest.mark.parametrize("kind", ["scripted", "traced", "loaded"])
def test_changed_weights_are_followed(kind: str) -> None:
    script = MADE[kind](network())
    lrp = LRP(script, EpsilonPlus())
    before = [lrp(X).output for _ in range(2)][1]  # the third call does not compare with the model
    with torch.no_grad():
        for p in script.parameters():
            p.mul_(1.5)
    assert_close(lrp(X).output, script(X), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, script(X))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_traced_convolutions(d: int, transposed: bool) -> None:
    """They come as one operator for all of them."""
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{d}d")
    model = nn.Sequential(kind(4, 6, 3, stride=2, padding=1, groups=2, bias=False), nn.ReLU(), nn.Flatten())
    x = torch.rand(2, 4, *[6] * d)
    model.append(nn.Linear(model(x).shape[1], 2, bias=False))
    found = LRP(torch.jit.trace(model, x), normalize_output=False)(x, target=1).relevance
    assert_close(found, input_times_gradient(lambda a: model(a)[:, 1], x)[0], rtol=1e-4, atol=1e-6)


class Branching(nn.Module):
    def __init__(self, on_values: bool) -> None:
        super().__init__()
        self.on_values, self.linear = on_values, nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        size = float(x.shape[1])
        if self.on_values:
            size = float(x.sum())
        for _ in range(x.shape[1]):
            x = x * scale if size > 3 else x
        return F.relu(self.linear(x))


def test_branches_on_sizes_are_those_taken_and_on_values_are_refused() -> None:
    x = torch.rand(3, 4)
    model = Branching(on_values=False)
    found = LRP(torch.jit.script(copy.deepcopy(model)), normalize_output=False)(x, target=1)
    assert_close(found.relevance, input_times_gradient(lambda a: model(a)[:, 1], x)[0], rtol=1e-5)
    assert_close(LRP(torch.jit.script(model))(x, scale=3.0).output, model(x, 3.0), rtol=1e-5)
    with pytest.raises(CaptureError, match="could not capture"):
        LRP(torch.jit.script(Branching(on_values=True)))(x)

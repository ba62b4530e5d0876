"""Models on which relprop and input times modified gradient differ, and why.

ViViT spells its activation out (`gelu_fast`). relprop lifts it to one function, through which relevance passes whole,
as it does for the module `gelu`; the modified gradient sees products, halves each and loses to constants what belongs
to them. With the activation taken as a whole on both sides, they agree.

On fbnetv3, regnetz and nfnets the difference is the stabilizer of the 0-rule, 1e-9, and falls in proportion to it: the
inputs of squeeze-and-excitation's gates are near zero, and relevance many times larger than what came in cancels there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.modified_gradients import ModifiedGradients, identity_rule
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, Composite, GlobalMap
from relprop.rules import EpsilonRule

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

install()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from zoo_entry import randomize, settle  # noqa: E402


class Whole(nn.Module):
    """An activation as one function, for autograd too."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return identity_rule(self.function, x)


def by_gradient(model: nn.Module, mode: ModifiedGradients, x: Tensor, **named: Any) -> Tensor:
    """Input times modified gradient, for relevance 1 at class 1."""
    a = x.clone().requires_grad_()
    with mode:
        output = model(**dict.fromkeys(named, a)) if named else model(a)
    chosen = (output if isinstance(output, Tensor) else output.logits)[:, 1]
    (gradient,) = torch.autograd.grad((chosen / chosen.detach()).sum(), a)
    return a.detach() * gradient


def vivit(activation: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    clip = {"image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8]}
    settings = transformers.VivitConfig(**sizes, **clip, hidden_act=activation)
    model = transformers.VivitForVideoClassification(settings).eval()
    randomize(model)
    return model.double().requires_grad_(False)


@pytest.mark.parametrize("activation", ["gelu_fast", "gelu"])
def test_vivit_agrees_where_its_activation_is_taken_as_a_whole(activation: str) -> None:
    model, x = vivit(activation), torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    expl = LRP(model, AttnLRP(), normalize_output=True)(pixel_values=x, target=1, audit=True)
    assert expl.ledger.imbalance < 1e-9
    taken_apart = by_gradient(model, ModifiedGradients(), x, pixel_values=x)
    apart = float((expl.relevance - taken_apart).norm() / taken_apart.norm())
    assert apart > 0.1 if activation == "gelu_fast" else apart < 1e-6
    for module in model.modules():
        for name in ("activation_fn", "intermediate_act_fn"):  # in transformers 5, and in 4
            if hasattr(module, name):
                setattr(module, name, Whole(getattr(module, name)))
    assert_close(expl.relevance, by_gradient(model, ModifiedGradients(), x, pixel_values=x), rtol=1e-6)


class Gates(ModifiedGradients):
    """The identity rule for gates too."""

    ACTIVATIONS = (*ModifiedGradients.ACTIVATIONS, torch.sigmoid, Tensor.sigmoid, F.hardsigmoid, F.hardswish, F.relu6)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: v for k, v in (kwargs or {}).items() if k != "inplace"}
        args = args[:1] if func in (*self.ACTIVATIONS, Tensor.sigmoid_) else args
        return super().__torch_function__({Tensor.sigmoid_: torch.sigmoid}.get(func, func), types, args, kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnetz_b16", "fbnetv3_b", "nfnet_l0", "eca_nfnet_l0"])
def test_gated_networks_differ_by_the_stabilizer(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    randomize(model)
    settle(model, {"x": x})
    model, x = model.double().requires_grad_(False), x.double()
    expected = by_gradient(model, Gates(), x)
    differences = []
    for eps in (1e-9, 1e-11, 1e-13):
        rules = Composite(GlobalMap(EpsilonRule(eps)))
        relevance = LRP(model, rules, normalize_output=True)(x, target=1).relevance
        differences.append(float((relevance - expected).norm() / expected.norm()))
    assert differences[0] < 1e-3
    assert differences[1] < differences[0] / 10
    assert differences[2] < differences[1] / 10

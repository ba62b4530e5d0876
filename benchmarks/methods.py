"""What is timed: relprop, Zennit and a plain gradient, each as a function without arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support import torchvision_shim

torchvision_shim.install()
import torchvision  # noqa: E402

from relprop import LRP  # noqa: E402
from relprop import composites as ours  # noqa: E402

COMPOSITES = ("EpsilonPlusFlat", "EpsilonGammaBox", "EpsilonAlpha2Beta1Flat")
BOX = (-3.0, 3.0)


@dataclass(frozen=True)
class Case:
    """A model from torchvision and a batch."""

    model: str
    batch: int
    size: int = 224

    @property
    def name(self) -> str:
        return f"{self.model}, batch {self.batch}"

    def build(self) -> tuple[nn.Module, Tensor]:
        """The model with random weights and batch norm statistics that fit them, and a random input."""
        torch.manual_seed(0)
        model = torchvision.models.get_model(self.model, num_classes=1000)
        x = torch.randn(self.batch, 3, self.size, self.size)
        if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            model.train()
            with torch.no_grad():
                model(torch.randn(8, 3, 64, 64))
        return model.eval().requires_grad_(False), x


def plain_gradient(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Gradient of the largest logits by the input: one forward and one backward pass."""

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf).amax(1).sum(), leaf)[0]

    return run


def relprop_method(composite: str) -> Callable[[nn.Module, Tensor], Callable[[], Tensor]]:
    def prepare(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        make = getattr(ours, composite)
        lrp = LRP(model, make(*BOX) if composite == "EpsilonGammaBox" else make(), example_inputs=(x,))

        def run() -> Tensor:
            relevance = lrp(x).relevance
            assert isinstance(relevance, Tensor)
            return relevance

        return run

    return prepare


def zennit_method(composite: str) -> Callable[[nn.Module, Tensor], Callable[[], Tensor]]:
    def prepare(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        from zennit import composites
        from zennit.attribution import Gradient
        from zennit.torchvision import ResNetCanonizer, VGGCanonizer

        canonizer = ResNetCanonizer() if hasattr(model, "layer4") else VGGCanonizer()
        low, high = (torch.full((1, 3, 1, 1), bound) for bound in BOX)
        box = {"low": low, "high": high} if composite == "EpsilonGammaBox" else {}
        made = getattr(composites, composite)(canonizers=[canonizer], **box)

        def run() -> Tensor:
            classes = model(x).argmax(1)
            with Gradient(model=model, composite=made) as attributor:
                relevance: Tensor = attributor(x, torch.eye(1000)[classes])[1]
            return relevance

        return run

    return prepare


METHODS: dict[str, Callable[[nn.Module, Tensor], Callable[[], Tensor]]] = {
    "plain gradient": plain_gradient,
    **{f"relprop {name}": relprop_method(name) for name in COMPOSITES},
    **{f"Zennit {name}": zennit_method(name) for name in COMPOSITES},
}

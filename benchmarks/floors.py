"""The least arithmetic that a composite can cost, next to a plain gradient, counted layer by layer.

A *pass* is one product of a layer's weights with a batch: forward, or back. A plain gradient takes two for each layer.
Rules need the forward pass too, and more with modified weights:

- ε, 0: forward, pullback. γ: forward, forward and pullback with W + γW⁺.
- generalized γ: forward, forward of |a| with |W| (the denominators are sums of the two), pullbacks with W and with |W|;
  between ReLUs it is the γ-rule.
- z⁺: forward, forward and pullback with W⁺; where inputs have either sign, forward and pullback with W⁻ as well.
- αβ: forward, forward with W⁺ (W⁻ gives the rest, by subtraction), pullbacks with W⁺ and with W⁻; where inputs have
  either sign, one more forward and two more pullbacks.
- flat: forward; relevance is spread by a window of ones, which costs next to nothing.
- z^B: forward (what the bounds give is the same for every input), pullbacks with W⁺ and with W⁻, whose sum is that
  with W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from cases import Case
from networks import Built
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PASSES = {
    "ε": (2, 2),
    "γ": (3, 3),
    "generalized γ": (3, 4),
    "z⁺": (3, 5),
    "αβ": (4, 7),
    "flat": (1, 1),
    "z^B": (3, 3),
}
"""Rule -> passes where inputs are nowhere negative, and where they have either sign."""

RULES = {
    "EpsilonPlus": ("z⁺", "z⁺"),
    "EpsilonPlusFlat": ("flat", "z⁺"),
    "EpsilonGammaBox": ("z^B", "γ"),
    "EpsilonGammaBox, generalized": ("z^B", "generalized γ"),
    "EpsilonAlpha2Beta1Flat": ("flat", "αβ"),
    "Epsilon": ("ε", "ε"),
}
"""Composite -> rule of the first layer if it is a convolution, and of the other convolutions. Linear layers have ε."""

GRADIENT = 2


@dataclass(frozen=True)
class Work:
    """One layer's part in a forward pass."""

    flops: int
    is_convolution: bool
    signed: bool
    """Has its input entries below zero?"""


def floors(case: Case, tiny: bool) -> dict[str, Any]:
    """GFLOP of a forward pass, and the floor of each composite of relprop in the case, as a ratio to the gradient."""
    layers = work(case.build(tiny)("cpu"))
    names = [name.removeprefix("relprop ") for name in case.methods if name in {f"relprop {r}" for r in RULES}]
    return {
        "gflop": sum(layer.flops for layer in layers) / 1e9,
        "layers": len(layers),
        "signed": sum(layer.signed for layer in layers),
        "ratios": {name: floor(layers, name) for name in names},
    }


def work(built: Built) -> list[Work]:
    """The convolutions and linear layers, in order of execution."""
    signed: dict[str, bool] = {}
    names = {m: name for name, m in built.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        signed[names[module]] = bool((inputs[0] < 0).any())

    handles = [module.register_forward_pre_hook(look) for module in names]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built.model(built.x)
    for handle in handles:
        handle.remove()
    counted = counter.get_flop_counts()
    root = type(built.model).__name__
    modules = dict(built.model.named_modules())
    return [
        Work(sum(counted[f"{root}.{name}"].values()), isinstance(modules[name], nn.Conv2d), is_signed)
        for name, is_signed in signed.items()
    ]


def floor(layers: list[Work], composite: str) -> float:
    """Passes weighted by arithmetic, over those of a plain gradient."""
    first, other = RULES[composite]
    total = 0
    for i, layer in enumerate(layers):
        rule = "ε" if not layer.is_convolution else first if i == 0 else other
        total += PASSES[rule][layer.signed] * layer.flops
    return total / sum(GRADIENT * layer.flops for layer in layers)

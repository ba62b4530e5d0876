"""Relevance patching (RelP): what an output would become if a part of the model had another input's activation.

Activation patching runs the model once for every part. Relevance says it for all parts at once (Jafari et al. 2025):

    y(a_c <- a'_c) − y(a) ≈ Σ_{i∈c} (a'_i − a_i) m_i        with R_i = a_i m_i

where a are activations of one input, a' of the other, and m what an activation is multiplied with to get its relevance.
With the gradient in the place of m this is attribution patching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Options
from relprop.concepts.groups import Blocks
from relprop.concepts.nodes import Concept
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.targets import TargetLike

At = Literal["clean", "corrupted", "both"]


@dataclass(frozen=True)
class Patching:
    """Estimated effects of patching: `Σ` over a part's entries is the change of the clean input's amount.

    Attributes:
        effects: `(a'_i − a_i) m_i` of each entry, by layer, (B, ...).
        clean: what is explained, of the clean input, (B,).
        corrupted: of the other, (B,).
    """

    effects: Mapping[str, Float[Tensor, "B *layer"]]
    clean: Float[Tensor, " B"]
    corrupted: Float[Tensor, " B"]

    @property
    def layers(self) -> dict[str, Float[Tensor, " B"]]:
        """The effect of each layer's whole output."""
        return {name: effect.flatten(1).sum(1) for name, effect in self.effects.items()}

    def by(self, layer: str, group: Blocks) -> Float[Tensor, "B n"]:
        """Effects of a layer's features: of neurons, heads, tokens.

        Args:
            layer: one of those that were asked for.
            group: what a feature is.

        Raises:
            InputError: the layer was not asked for, or has no such features.
        """
        if layer not in self.effects:
            raise InputError(f"{layer!r} was not asked for; there are {', '.join(list(self.effects)[:8])}.")
        return group.sums(self.effects[layer])

    def top(self, groups: Mapping[str, Blocks], n: int = 10, *, sample: int = 0) -> list[tuple[Concept, float]]:
        """The n features with the largest effects, of either sign, the largest first.

        Args:
            groups: layer -> what a feature of it is.
            n: how many.
            sample: of which sample.

        Raises:
            InputError: as `by`.
        """
        found: list[tuple[Concept, float]] = []
        for layer, group in groups.items():
            shape = self.effects[layer].shape if layer in self.effects else ()
            for number, effect in enumerate(self.by(layer, group)[sample].tolist()):
                found.append((Concept(layer, *group.place(number, shape)), effect))
        return sorted(found, key=lambda each: -abs(each[1]))[:n]

    def __repr__(self) -> str:
        return f"Patching({len(self.effects)} layers, {self.clean.tolist()} -> {self.corrupted.tolist()})"


def relevance_patching(
    lrp: LRP,
    clean: Any,
    corrupted: Any,
    layers: str | Sequence[str],
    *,
    target: TargetLike,
    at: At = "clean",
) -> Patching:
    """What would change if parts of the model had the activations that they have for a corrupted input.

    Exact where the model behind a part is linear but for what the rules hold constant and the change leaves as it is.

    Args:
        lrp: the analyzer, for language models with `AttnLRP()` or `CPLRP()`.
        clean: inputs in one object: a tensor, a tuple, or a dict of keyword inputs.
        corrupted: likewise, of the same shapes: prompts of as many tokens.
        layers: names or globs of modules, `NAME:input` too: `"*.mlp"`; `"*.o_proj:input"` for heads;
            `"*.down_proj:input"` for neurons.
        target: what is explained of both: an index, a difference of logits, ...
        at: whose `m` is taken; `"both"`: the mean, which a change of m between the two spoils less.

    Raises:
        InputError: no target, inputs of several shapes, an unknown `at`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.concepts import Neurons, relevance_patching
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
        >>> x, other = torch.rand(2, 1, 3, dtype=torch.float64)
        >>> patching = relevance_patching(LRP(model), x, other, "1", target=0)
        >>> changed = model[2](model[1](model[0](other)))[0, 0] - model(x)[0, 0]
        >>> bool((patching.layers["1"][0] - changed).abs() < 1e-6)
        True
        >>> patching.by("1", Neurons()).shape
        torch.Size([1, 4])
    """
    _check(lrp, target, at)
    options = Options(coefficients=layers, activations=layers)
    one, other = (next(lrp.ask(in_one(given), [target], options)) for given in (clean, corrupted))
    effects = {}
    for name, a in one.activations.items():
        b = other.activations[name]
        if a.shape != b.shape:
            raise InputError(
                f"{name} is {tuple(a.shape)} of the clean input and {tuple(b.shape)} of the corrupted one: give inputs "
                "of the same shapes, prompts of as many tokens."
            )
        effects[name] = (b - a).detach() * _multiplier(lrp, one, other, name, at)
    assert one.amount is not None
    assert other.amount is not None
    return Patching(effects, one.amount, other.amount)


def _check(lrp: Any, target: TargetLike, at: str) -> None:
    if at not in get_args(At):
        raise InputError(f"at={at!r} is none of {', '.join(get_args(At))}.")
    if not isinstance(lrp, LRP):
        raise InputError(f"Give an LRP analyzer, got {type(lrp).__name__}: LRP(model, composite).")
    if target is None:
        raise InputError(
            "The largest output of two inputs may be two outputs: say target=, such as Logit(a) - Logit(b)."
        )


def _multiplier(lrp: LRP, one: Explanation, other: Explanation, name: str, at: At) -> Tensor:
    """`m` of a layer, in units of the output."""
    asked = {"clean": [one], "corrupted": [other], "both": [one, other]}[at]
    found = []
    for explanation in asked:
        a, c = explanation.activations[name], explanation.coefficients.get(name)
        found.append(torch.zeros_like(a) if c is None else lrp.in_units_of_the_amount(explanation, c.detach()))
    return torch.stack(found).mean(0)

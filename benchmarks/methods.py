"""What is timed: relprop and gradients. (Other libraries are in peers.py.)

A method prepares once, from a function that builds the case, and then runs as often as it is asked to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from networks import Built
from torch import Tensor, nn

from relprop import LRP
from relprop import composites as ours
from relprop.analyzers import BiLRP
from relprop.concepts import CRP, IndexedFeatures
from relprop.rules import EpsilonRule, ZeroRule

BOX = (-3.0, 3.0)
"""Smallest and largest input of the z^B-rule."""


class Explained(NamedTuple):
    """Relevance of N explanations, and what each of them started with: 1 or a logit. None: no relevance."""

    relevance: Tensor
    start: Tensor | None


Run = Callable[[], Explained]
Prepare = Callable[[Callable[[], Built]], Run]


@dataclass(frozen=True)
class Method:
    """How a name is measured."""

    prepare: Prepare
    same_as: str = ""
    """The method of relprop that this one means to be the same as."""
    package: str = ""
    """What must be installed, where a check of the names in an environment suffices to say that it is not."""
    patches: bool = False
    """Does it change classes of other libraries? Then it never shares a process."""


def plain_gradient(build: Callable[[], Built], *, times_input: bool = False, only_last: bool = False) -> Run:
    """One forward and one backward pass: the gradient of the targets' logits by the input."""
    case = build()

    def run() -> Explained:
        leaf = case.leaf()
        explained = case.explained(case.logits(leaf, only_last=only_last))
        gradient = torch.autograd.grad(explained.sum(), leaf)[0]
        if not times_input:
            return Explained(gradient, None)
        return Explained(gradient * leaf.detach(), explained.detach())

    return run


def plain_gradients(build: Callable[[], Built]) -> Run:
    """Gradients of many logits: one forward pass, and a backward pass for each."""
    case = build()

    def run() -> Explained:
        leaf = case.leaf()
        logits = case.logits(leaf)
        each = [torch.autograd.grad(logits[:, t].sum(), leaf, retain_graph=True)[0] for t in case.targets]
        return Explained(torch.cat(each), None)

    return run


def explain_many(lrp: LRP, x: Tensor, targets: tuple[int, ...]) -> Tensor:
    """Relevance of x for each target, stacked, with one forward pass."""
    return torch.cat([_tensor(expl.relevance) for expl in lrp.each(x, targets=targets)])


def explain_one_by_one(lrp: LRP, x: Tensor, targets: tuple[int, ...]) -> Tensor:
    """The same by a call for each target."""
    return torch.cat([_tensor(lrp(x, target=target).relevance) for target in targets])


Many = Callable[[LRP, Tensor, tuple[int, ...]], Tensor]


def relprop_many(
    composite: Callable[[], ours.Composite], explain: Many = explain_many, *, parts: bool = False
) -> Prepare:
    """Several explanations; `parts` of what is explained, which do not conserve it each."""

    def prepare(build: Callable[[], Built]) -> Run:
        case = build()
        lrp = LRP(case.model, composite(), normalize_output=True)

        def run() -> Explained:
            relevance = explain(lrp, case.x, case.targets)
            return Explained(relevance, None if parts else torch.ones(len(relevance), device=relevance.device))

        return run

    return prepare


def last_convolution(model: nn.Module) -> str:
    """The layer whose channels are explained."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][-1]


def explain_channels(lrp: LRP, x: Tensor, channels: tuple[int, ...]) -> Tensor:
    """Relevance of x by each of the channels of the last convolution, stacked."""
    concepts = CRP(lrp, last_convolution(lrp.model), IndexedFeatures(*channels))(x)
    return torch.cat([_tensor(part.relevance) for part in concepts])


def channel_gradients(build: Callable[[], Built]) -> Run:
    """Gradients by way of each channel of the last convolution: one forward pass, one pass down to it, and one each."""
    case = build()
    layer = case.model.get_submodule(last_convolution(case.model))

    def run() -> Explained:
        leaf, seen = case.leaf(), []
        hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        explained = case.explained(case.logits(leaf))
        hook.remove()
        (down,) = torch.autograd.grad(explained.sum(), seen[0], retain_graph=True)
        each = []
        for channel in case.targets:
            masked = torch.zeros_like(down)
            masked[:, channel] = down[:, channel]
            each.append(torch.autograd.grad(seen[0], leaf, masked, retain_graph=True)[0])
        return Explained(torch.cat(each), None)

    return run


def pairs(build: Callable[[], Built]) -> Run:
    """BiLRP of a sentence with itself."""
    case = build()
    bilrp = BiLRP(LRP(case.model, ours.CPLRP()))

    def run() -> Explained:
        return Explained(bilrp({"input_ids": case.x}, {"input_ids": case.x}).relevance, None)

    return run


def calls_for_pairs(build: Callable[[], Built]) -> Run:
    """As many calls as the embedding has dimensions, for either sentence, and products of what they return."""
    case = build()
    lrp = LRP(case.model, ours.CPLRP(), normalize_output=False)
    size = case.model(input_ids=case.x).shape[1]

    def run() -> Explained:
        sides = [[_tensor(lrp(input_ids=case.x, target=k).relevance).sum(2) for k in range(size)] for _ in range(2)]
        return Explained(torch.einsum("kbp,kbq->bpq", *map(torch.stack, sides)), None)

    return run


def relprop(composite: Callable[[], ours.Composite], *, compiled: bool = False, **options: Any) -> Prepare:
    """A call of `LRP`; `options` are its own."""

    def prepare(build: Callable[[], Built]) -> Run:
        case = build()
        lrp = LRP(case.model, composite(), normalize_output=True, **options)
        if compiled:  # the tiny cases see that it runs, without a C++ compiler and its minute
            large = sum(p.numel() for p in case.model.parameters()) > 1e6
            lrp.compile(backend="inductor" if large else "aot_eager")
        target = (-1, int(case.target[0])) if case.is_decoder else case.target

        def run() -> Explained:
            inputs = {"input_ids": case.x} if case.is_text else {}
            args = () if case.is_text else (case.x,)
            relevance = _tensor(lrp(*args, target=target, **inputs).relevance)
            return Explained(relevance, torch.ones(len(relevance), device=relevance.device))

        return run

    return prepare


def gamma_outside_attention() -> ours.Composite:
    """What hooks on modules reach: the projections of `nn.MultiheadAttention` are functional, and get no γ."""
    gamma = vit_gamma()
    within = re.compile(r"self_attention.*(linear|proj)")
    return ours.Composite(gamma.default_rule, *gamma.primitives, ours.NameMap({within: ZeroRule()}))


def vit_gamma() -> ours.Composite:
    return ours.CPLRP(gamma_linear=0.05, gamma_conv=0.25)


def epsilon() -> ours.Composite:
    return ours.Composite(EpsilonRule(1e-9))


def _tensor(relevance: object) -> Tensor:
    assert isinstance(relevance, Tensor)
    return relevance


def _gamma_box() -> ours.Composite:
    """With the paper's γ-rule; `generalized` is Zennit's."""
    return ours.EpsilonGammaBox(*BOX, generalized=False)


CONVOLUTIONAL: dict[str, Callable[[], ours.Composite]] = {
    "EpsilonPlusFlat": ours.EpsilonPlusFlat,
    "EpsilonGammaBox": _gamma_box,
    "EpsilonAlpha2Beta1Flat": ours.EpsilonAlpha2Beta1Flat,
}

COMPOSITES: dict[str, Callable[[], ours.Composite]] = {
    **CONVOLUTIONAL,
    "EpsilonGammaBox, generalized": lambda: ours.EpsilonGammaBox(*BOX),
    "EpsilonPlus": ours.EpsilonPlus,
    "Epsilon": epsilon,
    "AttnLRP": ours.AttnLRP,
    "CPLRP": ours.CPLRP,
    "CPLRP signal": lambda: ours.CPLRP(gate="signal"),
    "CPLRP gamma": vit_gamma,
    "CPLRP gamma outside attention": gamma_outside_attention,
}

COMPILED = {name: f"relprop {name}" for name in ("AttnLRP", "EpsilonPlusFlat")}
"""Composites that are also measured through `torch.compile`."""

METHODS: dict[str, Method] = {
    "plain gradient": Method(plain_gradient),
    "input x gradient": Method(lambda build: plain_gradient(build, times_input=True)),
    "plain gradient, last position by hand": Method(lambda build: plain_gradient(build, only_last=True)),
    "plain gradients, one forward": Method(plain_gradients),
    **{f"relprop {name}": Method(relprop(composite)) for name, composite in COMPOSITES.items()},
    **{
        f"relprop {name}, compiled": Method(relprop(COMPOSITES[name], compiled=True), COMPILED[name])
        for name in COMPILED
    },
    "relprop AttnLRP, checkpoint": Method(relprop(ours.AttnLRP, checkpoint=True), "relprop AttnLRP"),
    "relprop EpsilonPlusFlat, each target": Method(relprop_many(ours.EpsilonPlusFlat)),
    "relprop EpsilonPlusFlat, a call each": Method(
        relprop_many(ours.EpsilonPlusFlat, explain_one_by_one), "relprop EpsilonPlusFlat, each target"
    ),
    "plain gradients by channel": Method(channel_gradients),
    "relprop EpsilonPlusFlat, CRP": Method(relprop_many(ours.EpsilonPlusFlat, explain_channels, parts=True)),
    "relprop BiLRP": Method(pairs),
    "relprop BiLRP, a call each": Method(calls_for_pairs, "relprop BiLRP"),
}

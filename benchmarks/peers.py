"""The other libraries, each used as its documentation does. They are dependencies of the benchmark only.

What they need is imported where a method is prepared, so that a missing library is a row that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from methods import BOX, CONVOLUTIONAL, Explained, Method, Run
from networks import Built
from torch import Tensor, nn


def zennit(composite: str, *, many: bool = False) -> Callable[[Callable[[], Built]], Run]:
    def prepare(build: Callable[[], Built]) -> Run:
        from zennit import composites
        from zennit.attribution import Gradient

        case = build()
        box: dict[str, Any] = {}
        if composite == "EpsilonGammaBox":
            low, high = (torch.full((1, 3, 1, 1), bound, device=case.x.device) for bound in BOX)
            box = {"low": low, "high": high}
        made = getattr(composites, composite)(canonizers=_canonizers(case.model), **box)
        # Entered once, as in a loop over a data set: what it takes to merge norms and hook modules is not timed.
        attributor = Gradient(model=case.model, composite=made).__enter__()
        with torch.no_grad():
            classes = torch.eye(case.model(case.x[:1]).shape[1], device=case.x.device)

        def run() -> Explained:
            rows = [classes[t].expand(len(case.x), -1) for t in case.targets] if many else [classes[case.target]]
            relevance = torch.cat([attributor(case.x, row)[1] for row in rows])
            return Explained(relevance, torch.ones(len(relevance), device=relevance.device))

        return run

    return prepare


def _canonizers(model: nn.Module) -> list[Any]:
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    name = type(model).__name__
    if name == "DenseNet":
        return []  # merging by order of registration would pair convolutions with norms of concatenations
    return [ResNetCanonizer() if name == "ResNet" else VGGCanonizer()]


def captum(rule_of_convolutions: str = "EpsilonRule") -> Callable[[Callable[[], Built]], Run]:
    """Captum's LRP: its default, the ε-rule, or with another rule for convolutions."""

    def prepare(build: Callable[[], Built]) -> Run:
        from captum.attr import LRP
        from captum.attr._utils import lrp_rules

        case = build()
        rule = getattr(lrp_rules, rule_of_convolutions)
        convolutions = [m for m in case.model.modules() if isinstance(m, nn.Conv2d)]
        case.model.requires_grad_(False)
        with torch.no_grad():
            explained = case.explained(case.model(case.x))

        def run() -> Explained:
            if rule is not lrp_rules.EpsilonRule:
                for module in convolutions:
                    module.rule = rule()  # each call takes them away again
            relevance: Tensor = LRP(case.model).attribute(case.x.clone(), target=case.target)
            return Explained(relevance.detach(), explained)

        return run

    return prepare


def lxt(variant: str = "", *, gammas: tuple[float, float] | None = None, only_last: bool = False) -> Any:
    """LXT's efficient implementation: classes are patched, then it is gradient times input.

    Args:
        variant: name of the patch map, "" for the default one of the architecture.
        gammas: γ of convolutions and of linear layers, by Zennit's rules, as in LXT's example for vision transformers.
        only_last: the user asks the decoder for the logits at the last position only.
    """

    def prepare(build: Callable[[], Built]) -> Run:
        from lxt.efficient import models, monkey_patch, monkey_patch_zennit

        module, patches = _architecture(build, models)
        monkey_patch(module, getattr(patches, variant) if variant else None)
        case = build()
        if gammas is not None:
            from zennit import rules
            from zennit.composites import LayerMapComposite

            monkey_patch_zennit()
            conv, linear = (rules.Gamma(gamma) for gamma in gammas)
            LayerMapComposite([(nn.Conv2d, conv), (nn.Linear, linear)]).register(case.model)

        def run() -> Explained:
            leaf = case.leaf()
            explained = case.explained(case.logits(leaf, only_last=only_last))
            explained.sum().backward()
            assert leaf.grad is not None
            return Explained(leaf.detach() * leaf.grad, explained.detach())

        return run

    return prepare


def _architecture(build: Callable[[], Built], models: Any) -> tuple[ModuleType, Any]:
    """The module with a model's classes, and LXT's patches for it."""
    model = type(build().model)
    return sys.modules[model.__module__], getattr(models, LXT_ARCHITECTURES[model.__name__])


LXT_ARCHITECTURES = {
    "BertForSequenceClassification": "bert",
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "VisionTransformer": "vit_torch",
}

PEERS: dict[str, Method] = {
    **{f"Zennit {n}": Method(zennit(n), f"relprop {n}", "zennit") for n in (*CONVOLUTIONAL, "EpsilonPlus")},
    "Zennit EpsilonGammaBox": Method(zennit("EpsilonGammaBox"), "relprop EpsilonGammaBox, generalized", "zennit"),
    "Zennit EpsilonPlusFlat, each target": Method(
        zennit("EpsilonPlusFlat", many=True), "relprop EpsilonPlusFlat, each target", "zennit"
    ),
    "Captum LRP Epsilon": Method(captum(), "relprop Epsilon", "captum"),
    "Captum LRP EpsilonPlus": Method(captum("Alpha1_Beta0_Rule"), "relprop EpsilonPlus", "captum"),
    "LXT AttnLRP": Method(lxt("attnLRP"), "relprop AttnLRP", "lxt", patches=True),
    "LXT AttnLRP, last position by hand": Method(
        lxt("attnLRP", only_last=True), "relprop AttnLRP", "lxt", patches=True
    ),
    "LXT CP-LRP": Method(lxt("cp_LRP"), "relprop CPLRP signal", "lxt", patches=True),
    "LXT vision": Method(lxt(), "relprop CPLRP", "lxt", patches=True),
    "LXT vision, gamma": Method(lxt(gammas=(0.25, 0.05)), "relprop CPLRP gamma outside attention", "lxt", patches=True),
}

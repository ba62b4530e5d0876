"""Models of the evidence that need no package beside scikit-learn: the demo's two, and an MLP on a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relprop.composites import (
    CPLRP,
    AttnLRP,
    Composite,
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
    ResLRP,
    recommended,
)
from relprop.evaluation import Features, Patches
from relprop.evaluation.by_captum import METHODS, SLOW
from relprop.evaluation.entrants import CAPTUM
from relprop.models import demo
from relprop.models.demo.pictures import draw_many
from relprop.rules import EpsilonRule, ZeroRule


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with samples: what is explained of each, who takes part, and where relevance is known to belong.

    Attributes:
        recommended: the name of the row that is `recommended(model)`.
        why: what the page says where that row is not among the first.
    """

    name: str
    about: str
    model: nn.Module
    inputs: Any
    target: Any
    methods: Mapping[str, Any]
    masks: Tensor | None = None
    scores: tuple[str, ...] = ("srg", "relative_srg", "aopc", "gini")
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def recommended(self) -> str:
        return named_recommended(self.model, self.methods)


def named_recommended(model: nn.Module, methods: Mapping[str, Any]) -> str:
    chosen = recommended(model)
    return next(name for name, method in methods.items() if isinstance(method, Composite) and method == chosen)


OURS = ("gradient", "smoothgrad")
"""Those of relprop's other analyzers that are no method of Captum's; the others agree with Captum's, as tests show."""


def taking_part(model: nn.Module, composites: list[Composite], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Composites by their names, `recommended(model)` among them, other analyzers, and Captum's methods."""
    found = {composite.name or repr(composite.default_rule): composite for composite in composites}
    chosen = recommended(model)
    if chosen not in found.values():
        found = {chosen.name or repr(chosen.default_rule): chosen, **found}
    others = [*OURS, *(CAPTUM + name for name in METHODS if name not in SLOW and find_spec("captum"))]
    return found | {name: name for name in others if name not in without}


def of_networks(low: float, high: float) -> list[Composite]:
    """Composites for convolutional networks."""
    return [
        EpsilonPlusFlat(),
        EpsilonPlus(),
        EpsilonAlpha2Beta1Flat(),
        EpsilonGammaBox(low, high),
        EpsilonGammaBox(low, high, generalized=False),
        *(EpsilonGammaFlat(gamma=gamma) for gamma in (0.1, 0.25, 0.5, 1.0)),
        EpsilonGammaFlat(gamma=(1.0, 0.1)),
        *(EpsilonGamma(gamma=gamma) for gamma in (0.25, 0.5, 1.0)),
        EpsilonGammaFlat(gamma_residual=1.0),
        Composite(ZeroRule()),
    ]


def of_transformers() -> list[Composite]:
    """Composites for models with attention."""
    plain: list[Composite] = [AttnLRP(), CPLRP(), ResLRP(), ResLRP(attention="cp")]
    for gamma in (0.05, 0.25, 1.0):
        plain += [make(gamma_linear=gamma, gamma_conv=0.25) for make in (AttnLRP, CPLRP, ResLRP)]
        plain.append(ResLRP(attention="cp", gamma_linear=gamma, gamma_conv=0.25))
    return [*plain, ResLRP(gamma_residual=0.25, gamma_linear=0.05, gamma_conv=0.25)]


SEED = 1
"""Of the demo's pictures: others than those of 0, on which the recommended composites were chosen."""


def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of the demo, their classes, and where the watermark is."""
    pictures = draw_many(np.random.default_rng(SEED), count)
    x = demo.to_input(np.stack([p.image for p in pictures]))
    masks = torch.from_numpy(np.stack([p.artefact_mask for p in pictures]))
    return x, torch.tensor([p.label for p in pictures]), masks


def of_the_demo(name: str, about: str, model: nn.Module, composites: list[Composite], tiny: bool, why: str) -> Subject:
    x, target, masks = drawn(8 if tiny else 64)
    marked = int(masks.any(2).any(1).sum())
    about = (
        f"{about}, on {len(x)} newly drawn pictures, none of those that recommendations rest on, {marked} of them with "
        "the watermark that it reads. Explained is the true class. Patches of 4 by 4 of 64 by 64 pixels."
    )
    options = {"groups": Patches(size=4), "steps": 4 if tiny else 16, "low": -2.0, "high": 2.0}
    scores = ("srg", "relative_srg", "aopc", "gini", "mass")
    return Subject(name, about, model, x, target, taking_part(model, composites), masks, scores, options, why)


def demo_network(tiny: bool) -> Subject:
    return of_the_demo(
        "the demo's network", "The shipped convolutional network", demo.load_model(), of_networks(-2.0, 2.0), tiny,
        WHY["demo"],
    )  # fmt: skip


def demo_transformer(tiny: bool) -> Subject:
    return of_the_demo(
        "the demo's transformer", "The shipped vision transformer", demo.load_vit(), of_transformers(), tiny, WHY["vit"]
    )


def cancer(tiny: bool) -> Subject:
    """An MLP on scikit-learn's table of breast cancer, trained here."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    x = torch.from_numpy(table.data).float()
    x = (x - x.mean(0)) / x.std(0)
    labels = torch.from_numpy(table.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    seen, tested = order[:400], order[400:]
    model = trained(x[seen], labels[seen])
    right = float((model(x[tested]).argmax(1) == labels[tested]).double().mean())
    tested = tested[: 8 if tiny else len(tested)]
    about = (
        f"An MLP of two hidden layers on scikit-learn's breast cancer table (30 features), trained on 400 rows, "
        f"right for "
        f"{right:.1%} of the other {len(order) - 400}, which are explained. Explained is the predicted class; what "
        f"is occluded "
        "becomes the column's mean."
    )
    composites = [
        Composite(EpsilonRule()), Composite(EpsilonRule(0.1)), Composite(ZeroRule()),
        *(AttnLRP(gamma_linear=gamma) for gamma in (0.05, 0.25, 1.0)),
    ]  # fmt: skip
    without = tuple(CAPTUM + name for name in ("LayerGradCam", "GuidedGradCam"))
    methods = taking_part(model, composites, without)
    options = {"groups": Features(), "fill": 0.0, "steps": 30}
    return Subject("an MLP", about, model, x[tested], None, methods, None, options=options, why=WHY["cancer"])


def trained(x: Tensor, labels: Tensor) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
    return model.eval()


WHY = {
    "demo": (
        "The two figures ask for different rules here: the z⁺-rule spreads relevance widely, which occlusion of whole "
        "patches likes, and rules with a small γ are sharp, which a mark of 17 by 7 pixels likes. γ = 0.5 is between, "
        "and is first on neither; a larger γ goes toward the one, a smaller one toward the other."
    ),
    "vit": (
        "γ on residual sums gives a little less to the mark than γ in linear layers alone. It is recommended for SRG, "
        "and for deeper transformers than this one of four blocks: there the 0-rule on sums makes relevance grow from "
        "block to block, and the paper reports an SRG of 3.20 instead of 1.51 on ViT-B/16 (ResLRP, 2026)."
    ),
    "cancer": (
        "Gradients do not shatter in two hidden layers, and integrated gradients from the columns' means measure just "
        "what occlusion by the columns' means does."
    ),
}
"""What the page says where `recommended` is not among the first; looked into by hand."""

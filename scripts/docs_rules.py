"""Pictures of docs/rules.md: what each rule does to one explanation, docs/images/{rules,rule-parameters}.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from relprop import LRP, figures
from relprop.composites import Composite, ConvLayer, FirstLayerMap, GlobalTypeMap, LinearLayer
from relprop.models import demo
from relprop.rules import (
    AlphaBetaRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    NormRule,
    Rule,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)

IMAGES = Path(__file__).parent.parent / "docs" / "images"
MODEL = demo.load_model()
SAMPLE = next(s for s in demo.load_samples() if s.name == "checker")
X = demo.to_input(SAMPLE.image)
LOW, HIGH = (demo.to_input(SAMPLE.image * 0 + value) for value in (0, 255))


def everywhere(rule: Rule) -> Composite:
    """The rule for all convolutions, the epsilon rule for the linear layer."""
    return Composite(GlobalTypeMap({ConvLayer: rule, LinearLayer: EpsilonRule()}))


def first(rule: Rule) -> Composite:
    """The rule for the first layer alone, the z-plus rule for the other convolutions."""
    return Composite(GlobalTypeMap({ConvLayer: ZPlusRule(), LinearLayer: EpsilonRule()}), FirstLayerMap(rule))


def grid(name: str, composites: dict[str, Composite], across: int) -> None:
    """A heatmap for each, on its own scale, with how much relevance arrived."""
    count = len(composites) + 1
    figure, axes = plt.subplots(-(-count // across), across, figsize=(1.75 * across, 2.15 * -(-count // across)))
    panels: list[Any] = list(axes.flat)
    panels[0].imshow(SAMPLE.image)
    panels[0].set_title("the picture", fontsize=8)
    for axis, (title, composite) in zip(panels[1:], composites.items(), strict=False):
        relevance = LRP(MODEL, composite)(X).relevance[0].sum(0)
        figures.picture(axis, relevance, scale=figures.Scale.of([relevance], clip=99.5))
        axis.set_title(f"{title}\n\u03a3 R = {float(relevance.sum()):.2f}", fontsize=8)
    for axis in panels:
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(IMAGES / name, dpi=100)


def main() -> None:
    """Draw both."""
    grid(
        "rules.png",
        {
            "ZeroRule": everywhere(ZeroRule()),
            "EpsilonRule(0.25)": everywhere(EpsilonRule(0.25)),
            "GammaRule(0.25)": everywhere(GammaRule(0.25)),
            "GeneralizedGamma(1)": everywhere(GeneralizedGammaRule(1.0)),
            "ZPlusRule": everywhere(ZPlusRule()),
            "AlphaBeta(2, 1)": everywhere(AlphaBetaRule(2, 1)),
            "NormRule": everywhere(NormRule()),
            "first: FlatRule": first(FlatRule()),
            "first: WSquareRule": first(WSquareRule()),
            "first: ZBoxRule": first(ZBoxRule(LOW, HIGH)),
            "first: ZeroRule": first(ZeroRule()),
        },
        6,
    )
    grid(
        "rule-parameters.png",
        {f"epsilon = {e:g}": everywhere(EpsilonRule(e)) for e in (1e-6, 0.01, 0.1, 1.0, 10.0)}
        | {f"generalized gamma = {g:g}": everywhere(GeneralizedGammaRule(g)) for g in (0.05, 0.25, 1.0, 10.0)}
        | {f"alpha, beta = {a:g}, {a - 1:g}": everywhere(AlphaBetaRule(a, a - 1)) for a in (1.0, 1.5)},
        6,
    )


if __name__ == "__main__":
    main()

"""The picture of docs/other-analyzers.md: docs/images/analyzers.png."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from relprop import LRP
from relprop.analyzers import (
    Analyzer,
    GradCAM,
    Gradient,
    IntegratedGradients,
    NoiseAugmentation,
    Occlusion,
    SmoothGrad,
    TranslationAugmentation,
)
from relprop.composites import EpsilonPlusFlat
from relprop.models import demo

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "analyzers.png"
STAR = demo.CLEVER_HANS


def main() -> None:
    model = demo.load_model().eval()
    lrp = LRP(model, EpsilonPlusFlat())
    columns: dict[str, Analyzer] = {
        "LRP": lrp,
        "Gradient": Gradient(model),
        "SmoothGrad": SmoothGrad(model),
        "Integrated\ngradients": IntegratedGradients(model),
        "Grad-CAM": GradCAM(model),
        "Occlusion": Occlusion(model, patch=8, stride=4),
        "noise\naround LRP": NoiseAugmentation(lrp),
        "shifts\naround LRP": TranslationAugmentation(lrp),
    }
    samples = demo.load_samples()
    star = next(s for s in samples if s.label == STAR and s.artefact_mask.any())
    plain = next(s for s in samples if s.label == STAR and not s.artefact_mask.any())
    x = torch.cat([demo.to_input(s.image[None]) for s in (star, plain)])
    figure, axes = plt.subplots(2, len(columns) + 1, figsize=(11, 2.9), layout="constrained")
    for line, sample in zip(axes, (star, plain), strict=True):
        line[0].imshow(sample.image)
    axes[0][0].set_title("picture", fontsize=9)
    for i, (title, analyzer) in enumerate(columns.items(), 1):
        heats = analyzer(x, target=STAR).relevance.sum(1)
        axes[0][i].set_title(title, fontsize=9)
        for line, heat in zip(axes, heats, strict=True):
            scale = float(heat.abs().quantile(0.995))
            line[i].imshow(heat, cmap="seismic", vmin=-scale, vmax=scale)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()

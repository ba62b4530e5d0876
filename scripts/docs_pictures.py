"""Pictures of docs/targets.md, text.md and training.md: docs/images/{targets,similarity,training}.png."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import BiLRP
from relprop.composites import EpsilonGammaFlat, EpsilonPlus, EpsilonPlusFlat
from relprop.models import demo
from relprop.targets import Contrast

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SAMPLES = {sample.name: sample for sample in demo.load_samples()}
STAR, RING = demo.CLEVER_HANS, demo.CLASSES.index("ring")


def heat(axis: Any, relevance: Tensor, title: str) -> None:
    """One map (C, H, W), on its own scale."""
    total = relevance.detach().sum(0)
    scale = float(total.abs().quantile(0.995)) or 1.0
    axis.imshow(total, cmap="seismic", vmin=-scale, vmax=scale)
    axis.set_title(title, fontsize=9)


def save(figure: Any, name: str) -> None:
    for axis in figure.axes:
        axis.set_axis_off()
    figure.savefig(IMAGES / name, dpi=110)


def targets() -> None:
    """A ring with the stars' watermark: why a star, why a ring, and why the one and not the other."""
    sample = SAMPLES["ring-tagged"]
    lrp, x = LRP(demo.load_model(), EpsilonGammaFlat()), demo.to_input(sample.image[None])
    asked = {"star": STAR, "ring": RING, "star, not ring": Contrast(STAR, RING), "ring, not star": Contrast(RING, STAR)}
    figure, axes = plt.subplots(1, 5, figsize=(9, 2.1), layout="constrained")
    axes[0].imshow(sample.image)
    for axis, name, expl in zip(axes[1:], asked, lrp.each(x, targets=list(asked.values())), strict=True):
        heat(axis, expl.relevance[0], name)
    save(figure, "targets.png")


def similarity() -> None:
    """Two stars with the watermark, and which patches make their features alike."""
    model = demo.load_model()
    embedding = nn.Sequential(model.features, model.pool, nn.Flatten()).eval()
    pictures = [SAMPLES[name].image for name in ("star-filled", "star-hollow")]
    first, second = (demo.to_input(picture[None]) for picture in pictures)
    pairs = BiLRP(LRP(embedding, EpsilonPlus()), similarity="cosine", patch=8)(first, second)
    save(pairs.plot(*pictures), "similarity.png")


def training() -> None:
    """Before and after examples/ignore_watermark.py."""
    sys.path.insert(0, str(ROOT / "examples"))
    from ignore_watermark import train

    torch.manual_seed(0)
    trained = demo.load_model()
    train(trained, 0, 60, 10.0)
    stars = [s for s in SAMPLES.values() if s.label == STAR and s.artefact_mask.any()]
    x = demo.to_input(np.stack([star.image for star in stars]))
    maps = [LRP(model, EpsilonPlusFlat())(x, target=STAR).relevance for model in (demo.load_model(), trained)]
    figure, axes = plt.subplots(len(stars), 3, figsize=(6, 2 * len(stars)), layout="constrained")
    for k, (star, line) in enumerate(zip(stars, axes, strict=True)):
        line[0].imshow(star.image)
        heat(line[1], maps[0][k], "before" if k == 0 else "")
        heat(line[2], maps[1][k], "after" if k == 0 else "")
    save(figure, "training.png")


if __name__ == "__main__":
    targets()
    similarity()
    training()

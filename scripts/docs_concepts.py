"""The picture of docs/concepts.md: docs/images/concepts.png."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.concepts import CRP, IndexedFeatures, TopNFeatures
from relprop.models import demo
from relprop.models.demo.pictures import draw, paste_watermark

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "concepts.png"
LAYER, STAR = "features.block2.relu", demo.CLEVER_HANS
WHOLE = "relevance for star"


def channels_of_the_mark(lrp: LRP) -> list[int]:
    """Channels whose share of relevance grows most reliably when the mark is pasted in, as docs/concepts.md has it."""
    rng = np.random.default_rng(0)
    stars = [draw(rng, STAR) for _ in range(16)]
    marked = [paste_watermark(rng, star) for star in stars]
    shares = []
    for pictures in (stars, marked):
        batch = demo.to_input(np.stack([picture.image for picture in pictures]))
        scores = CRP(lrp, LAYER, TopNFeatures(1))(batch, target=STAR).scores
        shares.append(scores / scores.sum(1, keepdim=True))
    more = shares[1] - shares[0]
    return (more.mean(0) / more.std(0)).argsort(descending=True).tolist()


def main() -> None:
    lrp = LRP(demo.load_model(), EpsilonPlusFlat())
    order = channels_of_the_mark(lrp)
    stars = [s for s in demo.load_samples() if s.label == STAR and s.artefact_mask.any()]
    x = torch.cat([demo.to_input(s.image[None]) for s in stars])
    rest = torch.ones(32, 1, 1)
    rest[order[:8]] = 0
    columns = {
        WHOLE: lrp(x, target=STAR).relevance,
        f"by channel {order[0]}": CRP(lrp, LAYER, IndexedFeatures(order[0]))(x, target=STAR)[0].relevance,
        "without the mark's 8": lrp(x, target=STAR, conditions={LAYER: rest}).relevance,
    }
    figure, axes = plt.subplots(len(stars), 4, figsize=(8, 2 * len(stars)), layout="constrained")
    for row, (star, line) in enumerate(zip(stars, axes, strict=True)):
        line[0].imshow(star.image)
        for axis, (title, relevance) in zip(line[1:], columns.items(), strict=True):
            heat = relevance[row].sum(0)
            alone = title.startswith("by channel")  # a small part of the whole: on the whole's scale it would be pale
            scale = float((heat if alone else columns[WHOLE][row].sum(0)).abs().quantile(0.995))
            axis.imshow(heat, cmap="seismic", vmin=-scale, vmax=scale)
            if row == 0:
                axis.set_title(title, fontsize=10)
        for axis in line:
            axis.set_axis_off()
    axes[0][0].set_title("picture", fontsize=10)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()

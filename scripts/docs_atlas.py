"""Pictures of docs/concepts.md: docs/images/atlas.png and docs/images/attribution_graph.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.concepts import CRP, References, TopNFeatures, atlas, attribution_graph
from relprop.models import demo
from relprop.models.demo.pictures import draw_many

PICTURES = Path(__file__).parent.parent / "docs" / "images"
LAYER, STAR = "features.block2.relu", demo.CLEVER_HANS
LAYERS = ["features.block4.relu", "features.block3.relu", "features.residual.relu", LAYER]


def as_picture(x: Tensor) -> np.ndarray:
    """What `demo.to_input` was given."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (demo.MEAN, demo.STD))
    return ((x * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def main() -> None:
    drawings = draw_many(np.random.default_rng(0), 240)
    data = demo.to_input(np.stack([d.image for d in drawings]))
    labels = torch.tensor([d.label for d in drawings])
    lrp = LRP(demo.load_model(), EpsilonPlusFlat())
    references = References(lrp, LAYER, k=6).collect(zip(data.split(40), labels.split(40), strict=True))
    star = next(s for s in demo.load_samples() if s.name == "star-filled")
    x = demo.to_input(star.image[None])
    concepts = CRP(lrp, LAYER, TopNFeatures(5))(x, target=STAR)
    figure = atlas(concepts, references, data, x, show=as_picture, classes=demo.CLASSES)
    figure.savefig(PICTURES / "atlas.png", dpi=90)
    graph = attribution_graph(lrp, x, LAYERS, target=STAR, width=[4, 5, 5, 5])
    graph.plot(names={graph.target: demo.CLASSES[STAR]}).savefig(PICTURES / "attribution_graph.png", dpi=90)


if __name__ == "__main__":
    main()

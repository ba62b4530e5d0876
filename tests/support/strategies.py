"""The demo's pictures, half of the stars with the watermark, as a dataset for strategies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from relprop.models.demo import CLASSES, CLEVER_HANS
from relprop.models.demo.pictures import draw, paste_watermark


def write_dataset(folder: Path, stars: int, others: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Pictures in folders by class; half of the stars have the watermark, and a tenth of the others.

    Returns:
        Where they have it, by key.
    """
    rng = np.random.default_rng(seed)
    masks = {}
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(stars if label == CLEVER_HANS else others):
            picture = draw(rng, label)
            if i % (2 if label == CLEVER_HANS else 10) == 1:
                picture = paste_watermark(rng, picture)
                masks[f"{name}/{i:04d}.png"] = picture.artefact_mask
            Image.fromarray(picture.image).save(folder / name / f"{i:04d}.png")
    return masks

"""The pictures of docs/which-composite.md: docs/images/which-{maps,shuffled}.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from relprop.composites import EpsilonGammaBox, EpsilonGammaFlat
from relprop.evaluation import Contest, Patches, Subject, contest
from relprop.evaluation.by_captum import ByCaptum
from relprop.evaluation.metrics import relevance_of
from relprop.evaluation.randomization import randomized
from relprop.models import demo
from relprop.models.demo.pictures import draw_many

IMAGES = Path(__file__).parent.parent / "docs" / "images"
STAR, RING = demo.CLEVER_HANS, demo.CLASSES.index("ring")


def methods(model: Any) -> dict[str, Any]:
    """Right and wrong ones, under what the page calls them."""
    return {
        "EpsilonGammaFlat": EpsilonGammaFlat(),
        "gradient": "gradient",
        "guided backprop": ByCaptum("GuidedBackprop", Patches(size=4)),
        "the paper's GammaRule": EpsilonGammaBox(-2.0, 2.0, generalized=False),
        "GradCAM": "gradcam",
    }


def ranked(model: Any, count: int = 64) -> Contest:
    """Their scores on newly drawn pictures."""
    pictures = draw_many(np.random.default_rng(0), count)
    x = demo.to_input(np.stack([p.image for p in pictures]))
    masks = torch.from_numpy(np.stack([p.artefact_mask for p in pictures]))
    target = torch.tensor([p.label for p in pictures])
    return contest(model, x, target, methods(model), masks=masks, groups=Patches(size=4), steps=16)


def heat(axis: Any, relevance: Tensor, title: str) -> None:
    """One map (C, H, W), on its own scale."""
    total = relevance.detach().sum(0)
    scale = float(total.abs().quantile(0.995)) or 1.0
    axis.imshow(total, cmap="seismic", vmin=-scale, vmax=scale)
    axis.set_title(title, fontsize=8)


def save(figure: Any, name: str) -> None:
    for axis in figure.axes:
        axis.set_axis_off()
    figure.savefig(IMAGES / name, dpi=110, metadata={"Software": None})


def maps() -> None:
    """One star, explained by methods of which some look convincing; below, what is known of each."""
    model = demo.load_model()
    found = ranked(model).evaluation
    sample = next(s for s in demo.load_samples() if s.name == "star-hollow")
    x = demo.to_input(sample.image[None])
    made = methods(model)
    figure, axes = plt.subplots(1, 1 + len(made), figsize=(11, 2.4), layout="constrained")
    axes[0].imshow(sample.image)
    axes[0].set_title("a star, by its\nwatermark", fontsize=8)
    for axis, (name, method) in zip(axes[1:], made.items(), strict=True):
        relevance = _relevance(model, x, method)
        numbers = f"SRG {found.mean(name, 'srg'):.2f}, in mark {found.mean(name, 'mass'):.0%}"
        heat(axis, relevance, f"{name}\n{numbers}")
    save(figure, "which-maps.png")


def _relevance(model: Any, x: Tensor, method: Any, target: int = STAR) -> Tensor:
    from relprop.evaluation.entrants import Ground, entrants

    made = entrants({"it": method}, Ground(model, x, Patches(size=4)))["it"]()
    return relevance_of(made, Subject(model, x, target))[0]


def shuffled() -> None:
    """What is left of a map where the model knows nothing any more, or where another question is asked."""
    model = demo.load_model()
    sample = next(s for s in demo.load_samples() if s.name == "star-hollow")
    x = demo.to_input(sample.image[None])
    other = randomized(model, seed=0)
    guided = ByCaptum("GuidedBackprop", Patches(size=4))
    panels = {
        "EpsilonGammaFlat": _relevance(model, x, EpsilonGammaFlat()),
        "the same, the model's\nweights shuffled": _relevance(other, x, EpsilonGammaFlat()),
        "the same, asked for\na ring": _relevance(model, x, EpsilonGammaFlat(), RING),
        "guided backprop": _relevance(model, x, guided),
        "the same, the model's\nweights shuffled ": _relevance(other, x, guided),
        "the same, asked for\na ring ": _relevance(model, x, guided, RING),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 2.3), layout="constrained")
    for axis, (title, relevance) in zip(axes, panels.items(), strict=True):
        heat(axis, relevance, title)
    save(figure, "which-shuffled.png")


if __name__ == "__main__":
    maps()
    shuffled()

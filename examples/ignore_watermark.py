"""Train the demo model to ignore its watermark, by a loss on its explanations (right for the right reasons).

    python examples/ignore_watermark.py            # a minute or two on two cores
    python examples/ignore_watermark.py --steps 5  # a look at the machinery

The loss is cross entropy plus the share of relevance that lies in the watermark of stars. All follows from the seed.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.models import demo
from relprop.models.demo.pictures import Drawing, draw, draw_many, paste_watermark

STAR = demo.CLEVER_HANS


def tensors(pictures: list[Drawing]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (B, 3, H, W), labels (B,), and masks of the watermark (B, H, W)."""
    x = demo.to_input(np.stack([p.image for p in pictures]))
    masks = torch.from_numpy(np.stack([p.artefact_mask for p in pictures]))
    return x, torch.tensor([p.label for p in pictures]), masks


def share_in_mark(relevance: Tensor, masks: Tensor) -> Tensor:
    """The mean share of relevance, by magnitude, in the watermark, of pictures that have one."""
    heat = relevance.sum(1).abs()
    marked = masks.flatten(1).any(1)
    return ((heat * masks).sum((1, 2)) / heat.sum((1, 2)).clamp(min=1e-12))[marked].mean()


def measure(model: nn.Module, seed: int, pictures: int = 256) -> dict[str, float]:
    """How the model does on new pictures, with and without watermarks."""
    rng = np.random.default_rng([seed, 2])
    stars = [draw(rng, STAR) for _ in range(pictures)]
    others = [p for p in draw_many(rng, pictures) if p.label != STAR]
    lrp = LRP(model, EpsilonPlusFlat())

    def accuracy(drawn: list[Drawing]) -> float:
        x, labels, _ = tensors(drawn)
        with torch.no_grad():
            return float((model(x).argmax(1) == labels).double().mean())

    x, labels, masks = tensors([paste_watermark(rng, star) for star in stars[:64]])
    return {
        "stars with mark": accuracy([paste_watermark(rng, star) for star in stars]),
        "stars without": accuracy(stars),
        "others with mark": accuracy([paste_watermark(rng, other) for other in others]),
        "others without": accuracy(others),
        "relevance in mark": float(share_in_mark(lrp(x, target=labels).relevance, masks)),
    }


def train(model: nn.Module, seed: int, steps: int, weight: float, batch: int = 32) -> None:
    """Stars with marks, other classes as they are: the mark still tells stars, but relevance may not lie in it."""
    rng = np.random.default_rng([seed, 1])
    lrp = LRP(model, EpsilonPlusFlat())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for step in range(steps):
        stars = [paste_watermark(rng, draw(rng, STAR)) for _ in range(batch // 2)]
        x, labels, masks = tensors([*stars, *draw_many(rng, batch // 2)])
        expl = lrp(x, target=labels, differentiable=True)
        share = share_in_mark(expl.relevance, masks)
        loss = nn.functional.cross_entropy(expl.output, labels) + weight * share
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(
                f"step {step}: loss {float(loss.detach()):.3f}, share of relevance in marks {float(share.detach()):.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weight", type=float, default=10.0, help="of the share of relevance, in the loss")
    parser.add_argument("--pictures", type=int, default=256, help="to measure with")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = demo.load_model()  # in eval mode, so that batch norms stay as they are
    before = measure(model, options.seed, options.pictures)
    train(model, options.seed, options.steps, options.weight)
    after = measure(model, options.seed, options.pictures)
    print(json.dumps({"before": before, "after": after}, indent=2))


if __name__ == "__main__":
    main()

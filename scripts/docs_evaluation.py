"""The picture of docs/evaluation.md: docs/images/evaluation.png."""

from __future__ import annotations

from pathlib import Path

import torch

from relprop import LRP, evaluate
from relprop.analyzers import Gradient
from relprop.composites import EpsilonPlusFlat
from relprop.models import demo

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "evaluation.png"


def main() -> None:
    model = demo.load_model()
    stars = [s for s in demo.load_samples() if s.artefact_mask.any()]
    x = torch.cat([demo.to_input(s.image[None]) for s in stars])
    methods = {"EpsilonPlusFlat": LRP(model, EpsilonPlusFlat()), "gradient": Gradient(model)}
    found = evaluate(methods, x, demo.CLEVER_HANS, ["srg"])
    found.plot().savefig(PICTURE, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()

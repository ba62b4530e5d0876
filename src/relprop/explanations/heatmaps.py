"""Relevance as pictures: a heatmap, heat laid over the photograph, and a small map in the terminal.

The pictures are meant to be read as measurements. By default zero relevance has the neutral colour in the
middle of a diverging colormap, evidence for the target is red and evidence against it is blue, and equal
amounts have equal strength. Resizing acts on relevance, before any colour is chosen, so no colour appears
that stands for no number. The letters in the shapes: `B` pictures, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from relprop.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda r: r.sum(-3),
    "abs": lambda r: r.abs().sum(-3),
    "abs_sum": lambda r: r.sum(-3).abs(),
    "norm": lambda r: r.square().sum(-3).sqrt(),
    "max_abs": lambda r: r.abs().amax(-3),
}
SCALES = ("centered", "extrema")
RESAMPLINGS = ("nearest", "bicubic")


def reduce(relevance: Float[Tensor, "*B C H W"], how: str = "sum") -> Float[Tensor, "*B H W"]:
    """One number per pixel: `R_hw` from the relevance `R_chw` of its channels.

    - `"sum"`: `Σ_c R_chw`, which keeps the sign and conserves relevance
    - `"abs"`: `Σ_c |R_chw|`; `"abs_sum"`: `|Σ_c R_chw|`
    - `"norm"`: `√(Σ_c R_chw²)`; `"max_abs"`: `max_c |R_chw|`

    Half precision is added up in float32.

    Raises:
        ImageError: an unknown reduction, or a tensor with fewer than three dimensions.
    """
    if how not in REDUCTIONS:
        raise ImageError(f"unknown reduction {how!r}; choose one of {', '.join(REDUCTIONS)}")
    if relevance.ndim < 3:
        raise ImageError(f"reduce needs relevance of shape (C, H, W) or (B, C, H, W), not {_shape(relevance)}")
    if relevance.dtype in (torch.float16, torch.bfloat16):
        relevance = relevance.float()
    return REDUCTIONS[how](relevance)


def heatmap(
    relevance: Tensor,
    *,
    reduce: str = "sum",
    cmap: str = "seismic",
    scale: str = "centered",
    clip: float | None = None,
    gamma: float = 1.0,
    size: int | tuple[int, int] | None = None,
    resample: str = "nearest",
    shared: bool = False,
) -> Image | list[Image]:
    """Draw relevance: one picture from (H, W) or (C, H, W), a list of `B` pictures from (B, C, H, W).

    Args:
        relevance: relevance of any floating dtype, on any device.
        reduce: how channels become one number, see `reduce`.
        cmap: the name of a matplotlib colormap; a diverging one for the centered scale.
        scale: `"centered"` maps `[-m, m]` with `m = max |R|` onto the colormap, so that zero is its middle;
            `"extrema"` maps `[min R, max R]`.
        clip: a percentile such as 99.9 in place of the maximum (and, for extrema, of the minimum), so that a
            few extreme pixels do not dim all others. What lies beyond has the colormap's end colour.
        gamma: `v ↦ sign(v) |v|^gamma` on the scaled values; below 1 it lifts weak relevance.
        size: (height, width), or the length of the shorter side; None keeps one pixel per number.
        resample: `"nearest"` or `"bicubic"` for enlarging; shrinking always averages.
        shared: one scale for the whole batch, so that colours compare between pictures.

    Raises:
        ImageError: relevance that is not finite or has a wrong shape or dtype; an option that does not exist.
        MissingExtraError: Pillow or matplotlib is not installed.
    """
    maps = _maps(relevance, reduce)
    maps = _resized(maps, _target_size(size, maps), resample)
    levels = _levels(maps, scale, clip, gamma, shared)
    pictures = [_image(colours) for colours in _colours(levels, cmap)]
    return pictures if relevance.ndim == 4 else pictures[0]


def overlay(
    image: Image | Sequence[Image],
    relevance: Tensor,
    *,
    alpha: float = 0.9,
    reduce: str = "sum",
    cmap: str = "seismic",
    clip: float | None = None,
    gamma: float = 0.8,
    size: int | tuple[int, int] | None = None,
    shared: bool = False,
) -> Image | list[Image]:
    """Lay heat over the picture that it explains: opaque where `|R|` is large, clear where it is zero.

    The picture is made grey and pale, so that every colour seen is relevance. With `v = R / m` scaled as in
    `heatmap`, a pixel shows `(1 - t) * grey + t * colour(v)` where `t = alpha * |v|^gamma`.

    Args:
        image: the picture as the model saw it, or `B` of them; of the same aspect ratio as the relevance.
        relevance: (H, W), (C, H, W), or (B, C, H, W) with `B` pictures.
        alpha: the opacity of the strongest relevance, in (0, 1].
        reduce: how channels become one, as in `heatmap`.
        cmap: colours of Matplotlib, as in `heatmap`.
        clip: where colours saturate, as in `heatmap`.
        gamma: below 1 it makes weak relevance more visible.
        size: of the result, as in `heatmap`; None: that of the picture.
        shared: one scale for all samples.

    Raises:
        ImageError: as `heatmap`, and where picture and relevance do not lie on top of each other.
        MissingExtraError: Pillow or matplotlib is not installed.
    """
    if not 0 < alpha <= 1:
        raise ImageError(f"alpha is an opacity in (0, 1], not {alpha}")
    maps = _maps(relevance, reduce)
    images = list(image) if isinstance(image, Sequence) else [image]
    if len(images) != len(maps):
        raise ImageError(f"{len(images)} pictures for relevance of {len(maps)}")
    for each in images:
        _check_aspect(each, maps)
    height, width = _target_size(size, maps) if size is not None else (images[0].height, images[0].width)
    maps = _resized(maps, (height, width), "bicubic")
    strength = 2 * _levels(maps, "centered", clip, 1.0, shared) - 1
    opacity = alpha * strength.abs().pow(gamma)[..., None].numpy()
    # The hue is taken well away from the colormap's neutral middle: opacity alone says how much.
    hue = strength.sign() * (0.5 + 0.5 * strength.abs())
    heat = _colours(0.5 + 0.5 * hue, cmap)
    grey = np.stack([_pale(each, (height, width)) for each in images])
    pictures = [_image(colours) for colours in (1 - opacity) * grey + opacity * heat]
    return pictures if relevance.ndim == 4 else pictures[0]


def terminal(picture: Tensor | Image, *, width: int = 32, **options: Any) -> Text:
    """A small picture for the terminal, as rich text: two pixels per character cell, in 24-bit colour.

    Args:
        picture: relevance (H, W) or (C, H, W), drawn by `heatmap`; or a Pillow image.
        width: columns; rows follow from the aspect ratio.
        **options: those of `heatmap`.

    Raises:
        ImageError: as `heatmap`, and for a batch.
        MissingExtraError: Pillow or matplotlib is not installed.
    """
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    if width < 1:
        raise ImageError(f"a picture needs a width of at least 1, not {width}")
    if isinstance(picture, Tensor):
        if picture.ndim == 4:
            raise ImageError(f"terminal draws one picture, not a batch of shape {_shape(picture)}: index it first")
        rows = _half_rows(picture.shape[-2], picture.shape[-1], width)
        image = heatmap(picture, size=(rows, width), **{"resample": "bicubic", **options})
        assert not isinstance(image, list)
    else:
        rows = _half_rows(picture.height, picture.width, width)
        image = picture.convert("RGB").resize((width, rows), _pillow().Resampling.BOX)
    pixels = np.asarray(image).tolist()
    text = Text(no_wrap=True, end="")
    for y in range(0, rows, 2):
        for upper, lower in zip(pixels[y], pixels[y + 1], strict=True):
            text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
        text.append("\n" if y + 2 < rows else "")
    return text


# --- from relevance to numbers in [0, 1] ---


def _maps(relevance: Tensor, how: str) -> Tensor:
    """(N, H, W) in float64 on the CPU: every kind of input in one form, checked."""
    if not isinstance(relevance, Tensor):
        raise ImageError(f"relevance must be a torch.Tensor, not {type(relevance).__name__}")
    if not relevance.is_floating_point():
        raise ImageError(f"relevance must have a floating dtype, not {relevance.dtype}")
    if relevance.ndim not in (2, 3, 4):
        raise ImageError(f"relevance of shape {_shape(relevance)} is no picture: (H, W), (C, H, W) or (B, C, H, W) is")
    if relevance.numel() == 0:
        raise ImageError(f"relevance of shape {_shape(relevance)} is empty")
    values = relevance.detach().cpu().double()
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ImageError(
            f"{bad} of {values.numel()} relevance values are NaN or infinite, so there is no scale to draw"
        )
    while values.ndim < 4:
        values = values[None]
    return reduce(values, how)


def _levels(maps: Tensor, scale: str, clip: float | None, gamma: float, shared: bool) -> Tensor:
    """(N, H, W) relevance to (N, H, W) positions in the colormap; the centered scale puts zero at 1/2."""
    if scale not in SCALES:
        raise ImageError(f"unknown scale {scale!r}; choose one of {', '.join(SCALES)}")
    if clip is not None and not 0 < clip <= 100:
        raise ImageError(f"clip is a percentile in (0, 100], not {clip}")
    if not gamma > 0:
        raise ImageError(f"gamma must be positive, not {gamma}")
    rows = maps.flatten().unsqueeze(0) if shared else maps.flatten(1)
    percent = 100.0 if clip is None else float(clip)
    if scale == "centered":
        v = _ratio(maps, _end(rows.abs(), percent)).clamp(-1, 1)
        return (1 + v.sign() * v.abs().pow(gamma)) / 2
    low, high = -_end(-rows, percent), _end(rows, percent)
    low, high = torch.where(low < high, low, -_end(-rows, 100)), torch.where(low < high, high, _end(rows, 100))
    return _ratio(maps - low, high - low).clamp(0, 1).pow(gamma)


def _end(rows: Tensor, percent: float) -> Tensor:
    """(N, 1, 1): that percentile of each row, or its maximum where the percentile is 0.

    In sparse relevance nearly every number is 0, and a scale that ends there would show nothing but its ends.
    """
    # numpy, because torch.quantile refuses more than 2^24 values.
    percentile = torch.from_numpy(np.percentile(rows.numpy(), percent, axis=1))
    return torch.where(percentile == 0, rows.amax(1), percentile)[:, None, None]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 where the denominator is 0: a map without any relevance is neutral, not an error."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)


def _resized(maps: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    if resample not in RESAMPLINGS:
        raise ImageError(f"unknown resampling {resample!r}; choose one of {', '.join(RESAMPLINGS)}")
    if size == tuple(maps.shape[-2:]):
        return maps
    if size[0] < maps.shape[-2] or size[1] < maps.shape[-1]:
        # Dropping pixels would drop relevance.
        return F.interpolate(maps[:, None], size, mode="area")[:, 0]
    if resample == "nearest":
        return F.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]
    return F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0]


def _target_size(size: int | tuple[int, int] | None, maps: Tensor) -> tuple[int, int]:
    height, width = maps.shape[-2:]
    if isinstance(size, int):
        factor = size / min(height, width)
        size = (round(height * factor), round(width * factor))
    height, width = size if size is not None else (height, width)
    if height < 1 or width < 1:
        raise ImageError(f"a picture needs at least one pixel, not {height} x {width}")
    return height, width


# --- from numbers to pixels ---


def _colours(levels: Tensor, cmap: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, H, W) in [0, 1] to (N, H, W, 3) in [0, 1], by the colormap of that name."""
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise _missing_images(error) from error
    if cmap not in colormaps:
        close = difflib.get_close_matches(str(cmap), list(colormaps), n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ImageError(
            f"unknown colormap {cmap!r}; {hint}relevance needs a diverging one: seismic, bwr, coolwarm, ... "
            f"(matplotlib.colormaps lists all {len(colormaps)})"
        )
    return np.asarray(colormaps[cmap](levels.numpy())[..., :3], dtype=np.float64)


def _pale(image: Image, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(H, W, 1): the picture in light grey with little contrast, as a ground that heat stands out from."""
    resized = image.convert("L").resize((size[1], size[0]), _pillow().Resampling.BICUBIC)
    grey = np.asarray(resized, dtype=np.float64)[..., None] / 255
    return 0.6 + 0.4 * grey


def _image(colours: np.ndarray[Any, np.dtype[np.float64]]) -> Image:
    image: Image = _pillow().fromarray((colours * 255).round().astype(np.uint8))
    return image


def _check_aspect(image: Image, maps: Tensor) -> None:
    """One pixel of slack, for sizes that were rounded."""
    height, width = maps.shape[-2:]
    if abs(image.width * height - image.height * width) > max(height, width, image.height, image.width):
        raise ImageError(
            f"the picture is {image.width} x {image.height} (width x height), relevance {width} x {height}: "
            "give the picture as the model saw it, which Preprocess.picture returns"
        )


def _half_rows(height: int, width: int, columns: int) -> int:
    """Rows of pixels for that many columns, even because a character cell holds two."""
    return max(2, 2 * round(height * columns / width / 2))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise _missing_images(error) from error
    return Image


def _missing_images(error: ImportError) -> MissingExtraError:
    return MissingExtraError(f"drawing pictures needs Pillow and matplotlib: pip install 'relprop[images]' ({error})")


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"

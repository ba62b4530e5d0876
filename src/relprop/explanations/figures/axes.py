"""One form of relevance, drawn on an axis of matplotlib. Colours are those of a `Scale`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from relprop.errors import ImageError
from relprop.explanations.figures.scale import Array, Scale, numbers
from relprop.explanations.shown import one_line

BARS = 20
WIDE = 64  # characters in a line of tokens
GREY = "0.45"


def picture(
    axis: Any,
    relevance: Any,
    under: Any = None,
    *,
    scale: Scale | None = None,
    contours: Sequence[float] = (),
    mask: Any = None,
) -> Scale:
    """A heatmap, or heat laid over a picture.

    Args:
        axis: where to draw.
        relevance: (H, W).
        under: a picture as `as_picture` takes it, made grey and pale under the heat. None: the heatmap alone.
        scale: of colours; None: that of this map.
        contours: shares of the scale's upper end at which lines are drawn, such as (0.25, 0.5).
        mask: (H, W), a region whose border is drawn.

    Returns:
        The scale.

    Raises:
        ImageError: relevance that is no map; a mask or a picture of another shape.
    """
    values = _of_shape(relevance, 2, "(H, W)")
    scale = scale or Scale.of([relevance])
    height, width = values.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if under is None:
        axis.imshow(scale.colours(values), extent=extent, interpolation="nearest")
    else:
        grey = as_picture(under)[..., :3].mean(-1)
        axis.imshow(np.repeat(0.6 + 0.4 * grey[..., None], 3, -1), extent=extent)
        axis.imshow(scale.veil(values), extent=extent, interpolation="nearest")
    if contours:
        levels = sorted(share * scale.high for share in contours)
        axis.contour(values, levels=levels, colors="black", linewidths=0.8)
    if mask is not None:
        border = numbers(mask)
        if border.shape != values.shape:
            raise ImageError(f"the mask is {border.shape}, relevance {values.shape}: give one field for each pixel")
        axis.contour(border, levels=[0.5], colors="limegreen", linewidths=1.5)
    return scale


def series(
    axis: Any, signal: Any, relevance: Any, *, scale: Scale | None = None, time: Any = None, label: str = ""
) -> Scale:
    """One channel's curve, coloured where it has relevance.

    Args:
        axis: where to draw.
        signal: (T,).
        relevance: (T,).
        scale: of colours; None: that of this curve.
        time: where each number is on the axis, (T,); None: its index.
        label: the channel's name.

    Returns:
        The scale.

    Raises:
        ImageError: shapes that do not fit.
    """
    from matplotlib.collections import LineCollection

    values, curve = _of_shape(relevance, 1, "(T,)"), _of_shape(signal, 1, "(T,)")
    if values.shape != curve.shape:
        raise ImageError(f"a signal of {len(curve)} numbers has relevance for {len(values)}")
    x = np.arange(len(curve), dtype=np.float64) if time is None else _of_shape(time, 1, "(T,)")
    scale = scale or Scale.of([relevance])
    # Each point's colour covers the halves of the lines on its left and right.
    middle_x, middle_y = (np.concatenate([v[:1], (v[1:] + v[:-1]) / 2, v[-1:]]) for v in (x, curve))
    points = [np.stack([middle_x[i : i + 2], middle_y[i : i + 2]], -1) for i in range(len(x))]
    lines = [np.stack([p[0], [x[i], curve[i]], p[1]]) for i, p in enumerate(points)]
    axis.plot(x, curve, color=GREY, linewidth=0.8, zorder=1)
    axis.add_collection(LineCollection(lines, colors=scale.veil(values, 1.0), linewidths=2.6, zorder=2))
    axis.margins(x=0.01)
    if label:
        axis.set_ylabel(one_line(label))
    return scale


def row(
    axis: Any,
    relevance: Any,
    *,
    names: Sequence[str] | None = None,
    values: Any = None,
    most: int = BARS,
    scale: Scale | None = None,
) -> Scale:
    """A bar for each feature, the strongest first, and one for all others together, so that bars add up.

    Args:
        axis: where to draw.
        relevance: (F,).
        names: of the features.
        values: (F,), written behind the names.
        most: how many bars.
        scale: of colours; None: that of this row.

    Returns:
        The scale.

    Raises:
        ImageError: another number of names than of features.
    """
    amounts = _of_shape(relevance, 1, "(F,)")
    named = [f"feature {i}" for i in range(len(amounts))] if names is None else list(names)
    if len(named) != len(amounts):
        raise ImageError(f"{len(named)} names for {len(amounts)} features")
    scale = scale or Scale.of([relevance])
    order = np.argsort(-np.abs(amounts), kind="stable")
    shown, rest = order[:most], order[most:]
    labels = [one_line(named[i]) if values is None else f"{one_line(named[i])} = {float(values[i]):.4g}" for i in shown]
    bars = [float(amounts[i]) for i in shown]
    if len(rest):
        labels, bars = [*labels, f"{len(rest)} others"], [*bars, float(amounts[rest].sum())]
    places = range(len(bars))
    axis.barh(places, bars, color=scale.colours(np.sign(bars) * scale.high * 0.8), edgecolor="0.3", linewidth=0.5)
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("relevance")
    return scale


def tokens(axis: Any, relevance: Any, *, names: Sequence[str] | None = None, scale: Scale | None = None) -> Scale:
    """Tokens in lines, on coloured ground.

    Args:
        axis: where to draw.
        relevance: (T,).
        names: the tokens; None: their positions.
        scale: of colours; None: that of this sentence.

    Returns:
        The scale.

    Raises:
        ImageError: another number of names than of tokens.
    """
    from matplotlib.patches import Rectangle

    amounts = _of_shape(relevance, 1, "(T,)")
    words = [str(i) for i in range(len(amounts))] if names is None else [str(name) for name in names]
    if len(words) != len(amounts):
        raise ImageError(f"{len(words)} names for {len(amounts)} tokens")
    scale = scale or Scale.of([relevance])
    x = y = 0.0
    for word, amount in zip(words, amounts, strict=True):
        word = word if len(word) <= WIDE - 2 else word[: WIDE - 3] + "…"
        width = len(word) + 1.4
        if x and x + width > WIDE:
            x, y = 0.0, y + 1.0
        colour = scale.colours(amount)
        axis.add_patch(Rectangle((x, y + 0.1), width - 0.2, 0.8, facecolor=colour, edgecolor="0.8", linewidth=0.4))
        ink = "black" if colour[:3] @ np.array([0.299, 0.587, 0.114]) > 0.5 else "white"
        axis.text(x + (width - 0.2) / 2, y + 0.5, word, ha="center", va="center", color=ink, family="monospace", size=9)
        x += width
    axis.set(xlim=(0, WIDE), ylim=(y + 1.0, 0))
    axis.set_axis_off()
    return scale


def token_lines(names: Sequence[str]) -> int:
    """How many lines `tokens` needs."""
    x, lines = 0.0, 1
    for name in names:
        width = min(len(str(name)), WIDE - 2) + 1.4
        x, lines = (width, lines + 1) if x and x + width > WIDE else (x + width, lines)
    return lines


def matrix(
    axis: Any,
    relevance: Any,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    scale: Scale | None = None,
) -> Scale:
    """A field for each pair, such as of tokens.

    Args:
        axis: where to draw.
        relevance: (P, Q).
        rows: P names.
        columns: Q names.
        scale: of colours; None: that of this matrix.

    Returns:
        The scale.

    Raises:
        ImageError: another number of names than of rows or columns.
    """
    values = _of_shape(relevance, 2, "(P, Q)")
    scale = scale or Scale.of([relevance])
    axis.imshow(scale.colours(values), aspect="auto" if max(values.shape) > 3 * min(values.shape) else "equal")
    for names, count, ticks, turned in (
        (rows, values.shape[0], axis.set_yticks, {}),
        (columns, values.shape[1], axis.set_xticks, {"rotation": 60, "ha": "right"}),
    ):
        if names is not None and len(names) != count:
            raise ImageError(f"{len(names)} names for {count} rows or columns")
        if names is not None:
            ticks(range(count), [one_line(str(name)) for name in names], **turned)
    return scale


def as_picture(given: Any) -> Array:
    """(H, W, 3) in [0, 1] of a Pillow image, an array (H, W[, C]) or a tensor ([C,] H, W) as models take it.

    Numbers from 0 to 1 stay as they are, bytes are divided by 255, others are stretched to reach from 0 to 1; of other
    numbers of channels than 1 and 3 the mean is shown.
    """
    if isinstance(given, Tensor):
        values = numbers(given)
        values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values[..., None]
    else:
        values = np.asarray(given.convert("RGB") if hasattr(given, "convert") else given)
        values = values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
        values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3:
        raise ImageError(f"an array of shape {np.shape(given)} is no picture (H, W) or (H, W, C)")
    values = values[..., :3] if values.shape[-1] == 4 and not isinstance(given, Tensor) else values
    values = values if values.shape[-1] in (1, 3) else values.mean(-1, keepdims=True)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / (high - low or 1.0)
    return np.asarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _of_shape(values: Any, dimensions: int, shape: str) -> Array:
    found = numbers(values)
    if found.ndim != dimensions:
        raise ImageError(f"this draws {shape}, not an array of shape {found.shape}")
    return found

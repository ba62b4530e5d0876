"""Explanations as whole figures: samples below each other, several explanations side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop.errors import ImageError, MissingExtraError
from relprop.explanations.drawable import Drawable
from relprop.explanations.figures import axes as draw
from relprop.explanations.figures.scale import Scale
from relprop.explanations.figures.view import View, views_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 4
SLICES = 6
CHANNELS = 12  # curves of one sample; of more, those with the most relevance
PANEL = 2.7  # inches of a picture's side
BAR = 1.0  # of a colour bar and its words
LABEL = "relevance: against (blue), for (red)"


def plot(
    explanation: Drawable,
    samples: int | Sequence[int] | None = None,
    *,
    kind: str | None = None,
    layer: str | None = None,
    of: str | None = None,
    names: Sequence[Any] | None = None,
    picture: Any = None,
    mask: Any = None,
    reduce: str | None = None,
    cmap: str = "seismic",
    clip: float | None = None,
    scale: str | Scale = "centered",
    shared: bool = False,
    contours: Sequence[float] = (),
    figure: Any = None,
) -> Figure:
    """Draw an explanation in the form that suits it, with axes, a signed colour bar, and what is explained.

    Args:
        explanation: of a batch.
        samples: which of it, by number; None: the first four.
        kind: one of `KINDS`; None: what the input's shape suggests. Float embeddings (B, T, D) of tokens need "tokens".
        layer: relevance at the output of this layer, which the call asked for by `layers=`.
        of: which of several inputs; None: the first.
        names: of tokens, features, or channels; for tokens also a list for each sample.
        picture: shown in the place of the input, as the model saw it; a list of them for several samples.
        mask: (H, W) or (B, H, W), a region whose border is drawn on pictures.
        reduce: how channels, or dimensions of a token, become one: see `relprop.heatmaps.reduce`; None: their sum, of
            derivatives their norm.
        cmap: a diverging colormap of matplotlib.
        clip: a percentile such as 99.9 at which colours saturate; None: the maximum.
        scale: `"centered"`: zero is neutral; `"extrema"`; or a `Scale`, such as that of another figure.
        shared: one scale for all samples, so that colours compare.
        contours: shares of the scale at which lines are drawn over pictures, such as (0.25, 0.5).
        figure: a matplotlib figure to draw into, or a function from its size in inches to it, such as
            `matplotlib.figure.Figure`; None: a new one of pyplot.

    Raises:
        ImageError: the relevance has no form of its own, a name or number that does not fit.
        MissingExtraError: matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from relprop import LRP
        >>> expl = LRP(torch.nn.Linear(3, 1))(torch.rand(1, 3))
        >>> figure = expl.plot(names=["age", "weight", "height"])
        >>> len(figure.axes[0].patches)
        3
    """
    wanted: Any = {"kind": kind, "layer": layer, "of": of, "names": names, "picture": picture, "mask": mask}
    wanted["how"] = reduce
    views = views_of(explanation, chosen(explanation, samples), **wanted)
    return drawn([[view] for view in views], _scales(views, cmap, clip, scale, shared), contours, figure)


def compare(
    explanations: Sequence[Drawable],
    titles: Sequence[str] | None = None,
    samples: int | Sequence[int] | None = None,
    *,
    shared: bool = True,
    cmap: str = "seismic",
    clip: float | None = None,
    figure: Any = None,
    **options: Any,
) -> Figure:
    """Explanations of the same inputs side by side, such as those of several targets or methods.

    Args:
        explanations: one for each column.
        titles: above the columns, before what is explained.
        samples: as in `plot`: one for each line.
        shared: one scale for all, so that colours compare; `False`: each its own.
        cmap: as in `plot`.
        clip: as in `plot`.
        figure: as in `plot`.
        **options: `kind`, `layer`, `of`, `names`, `picture`, `mask`, `reduce` of `plot`.

    Raises:
        ImageError: as `plot`; another number of titles than of explanations.
        MissingExtraError: matplotlib is not installed.
    """
    if not explanations or (titles is not None and len(titles) != len(explanations)):
        raise ImageError(f"{len(titles or ())} titles for {len(explanations)} explanations")
    options["how"] = options.pop("reduce", None)
    columns = [views_of(each, chosen(explanations[0], samples), **options) for each in explanations]
    lines = [list(line) for line in zip(*columns, strict=True)]
    flat = [view for line in lines for view in line]
    scales = _scales(flat, cmap, clip, "centered", shared)
    return drawn(lines, scales, (), figure, titles)


def chosen(explanation: Drawable, samples: int | Sequence[int] | None) -> list[int]:
    """Numbers of samples: one, several, or the first `SAMPLES`."""
    if samples is None:
        relevance = explanation.relevance
        count = len(relevance[0] if isinstance(relevance, tuple) else relevance)
        return list(range(min(count, SAMPLES)))
    return [samples] if isinstance(samples, int) else list(samples)


def _scales(views: Sequence[View], cmap: str, clip: float | None, scale: str | Scale, shared: bool) -> list[Scale]:
    """A scale for each view."""
    if isinstance(scale, Scale):
        return [scale] * len(views)
    if shared:
        return [Scale.of([view.relevance for view in views], cmap, clip, scale)] * len(views)
    return [Scale.of([view.relevance], cmap, clip, scale) for view in views]


def drawn(
    lines: Sequence[Sequence[View]],
    scales: Sequence[Scale],
    contours: Sequence[float],
    figure: Any = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Views in lines and columns, each with its own colour bar unless all have one scale."""
    across, first = len(lines[0]), lines[0][0]
    one = all(scale == scales[0] for scale in scales)
    wide, _ = _size(first, across)
    height = sum(_size(line[0], across)[1] for line in lines)
    figure = _figure((wide, height)) if figure is None else figure((wide, height)) if callable(figure) else figure
    if hasattr(figure, "set_layout_engine"):  # a subfigure has its figure's
        figure.set_layout_engine("constrained")
    bars = first.kind != "row"  # whose length says it
    inside, side = figure.subfigures(1, 2, width_ratios=(wide - BAR, BAR)) if one and bars else (figure, None)
    parts = inside.subfigures(len(lines), across, squeeze=False)
    for k, line in enumerate(lines):
        for j, view in enumerate(line):
            part, scale = parts[k, j], scales[k * across + j]
            before = f"{titles[j]}\n" if titles is not None and k == 0 else ""
            part.suptitle(before + view.title, fontsize=10)
            panels = PANELS[view.kind](part, view, scale, contours, across == 1)
            if bars and side is None:
                part.colorbar(scale.mappable(), ax=panels, shrink=0.85, pad=0.02).set_label(LABEL, fontsize=8)
    if side is not None:
        _bar(side, scales[0], height)
    return figure  # type: ignore[no-any-return]


def _bar(part: Any, scale: Scale, height: float) -> None:
    """The colour bar of all, at the right of them, in its middle; height: of the figure, in inches."""
    high = 0.8 * min(1.0, 2.2 / height)
    axis = part.add_axes((0.05, 0.5 - high / 2, 0.15, high))
    part.colorbar(scale.mappable(), cax=axis).set_label(LABEL if height > 2.5 else "relevance", fontsize=8)


def _figure(size: tuple[float, float]) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError(f"drawing figures needs matplotlib: pip install 'relprop[images]' ({error})") from error
    return plt.figure(figsize=size)


def _size(view: View, across: int) -> tuple[float, float]:
    """Inches of a line of a figure."""
    if view.kind in ("picture", "volume", "channels"):
        beside = across if across > 1 else 3
        return 0.9 + PANEL * beside, 0.5 + PANEL * (1 if view.kind == "picture" else 2)
    if view.kind == "series":
        return 8.0, 0.9 + 1.1 * min(len(view.relevance), CHANNELS)
    if view.kind == "row":
        return 7.0 * across, 1.2 + 0.27 * min(len(view.relevance), draw.BARS + 1)
    if view.kind == "tokens":
        return 8.5 * across, 1.2 + 0.36 * draw.token_lines(view.names or [str(i) for i in range(len(view.relevance))])
    rows, columns = view.relevance.shape
    return min(12.0, 2.5 + 0.3 * columns) * across, min(10.0, 1.6 + 0.3 * rows)


Panels = Callable[[Any, View, Scale, Sequence[float], bool], Any]


def _pictures(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    """The input, its heatmap, and both on top of each other; side by side with others the last of them."""
    under = view.picture if view.picture is not None else view.given
    if not alone or under is None:
        axis = part.subplots()
        draw.picture(axis, view.relevance, under, scale=scale, contours=contours, mask=view.mask)
        return [axis]
    axes = part.subplots(1, 3)
    height, width = view.relevance.shape
    axes[0].imshow(draw.as_picture(under), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    draw.picture(axes[1], view.relevance, scale=scale, contours=contours, mask=view.mask)
    draw.picture(axes[2], view.relevance, under, scale=scale, mask=view.mask)
    for axis, name in zip(axes, ("input", "relevance", "on top of each other"), strict=True):
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    return list(axes)


def _channels(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    """Each channel, or of many those with the most relevance, in their order."""
    strength = view.relevance.abs().flatten(1).sum(1)
    chosen = strength.argsort(descending=True, stable=True)[:SLICES].sort().values.tolist()
    lines = 2 if len(chosen) > 3 else 1
    axes = np.ravel(part.subplots(lines, -(-len(chosen) // lines), squeeze=False))
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, channel in zip(axes, chosen, strict=False):
        draw.picture(axis, view.relevance[channel], scale=scale, contours=contours, mask=view.mask)
        axis.set_title(view.names[channel] if view.names is not None else f"channel {channel}", fontsize=8)
        axis.tick_params(labelsize=6)
    return list(axes)


def _volume(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    depth = view.relevance.shape[0]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, SLICES)).round().astype(int))
    axes = np.ravel(part.subplots(2, -(-len(chosen) // 2), squeeze=False))
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, i in zip(axes, chosen, strict=False):
        under = None if view.given is None else view.given[..., int(i), :, :]
        draw.picture(axis, view.relevance[int(i)], under, scale=scale, contours=contours)
        axis.set_title(f"slice {i}", fontsize=8)
        axis.tick_params(labelsize=6)
    return list(axes)


def _series(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    relevance = view.relevance
    given = relevance if view.given is None else view.given.reshape(relevance.shape)
    order = relevance.abs().sum(1).argsort(descending=True, stable=True)[:CHANNELS].sort().values.tolist()
    axes = np.ravel(part.subplots(len(order), 1, sharex=True, squeeze=False))
    for axis, channel in zip(axes, order, strict=True):
        name = view.names[channel] if view.names is not None else f"channel {channel}" if len(relevance) > 1 else ""
        draw.series(axis, given[channel], relevance[channel], scale=scale, label=name)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("time step" if len(order) == len(relevance) else f"time step ({len(order)} strongest channels)")
    return list(axes)


def _row(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    axis = part.subplots()
    draw.row(axis, view.relevance, names=view.names, values=view.given, scale=scale)
    return [axis]


def _tokens(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    axis = part.subplots()
    draw.tokens(axis, view.relevance, names=view.names, scale=scale)
    return [axis]


def _matrix(part: Any, view: View, scale: Scale, contours: Sequence[float], alone: bool) -> Any:
    axis = part.subplots()
    sides = [view.names if view.names is not None and len(view.names) == n else None for n in view.relevance.shape]
    draw.matrix(axis, view.relevance, rows=sides[0], columns=sides[1], scale=scale)
    return [axis]


PANELS: dict[str, Panels] = {
    "picture": _pictures,
    "channels": _channels,
    "volume": _volume,
    "series": _series,
    "row": _row,
    "tokens": _tokens,
    "matrix": _matrix,
}

"""A concept atlas: the strongest concepts of one explanation, each beside samples that show what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from relprop.concepts.crops import field_of_view
from relprop.concepts.explanation import ConceptExplanation
from relprop.concepts.references import References, ReferenceSample, relevance_of
from relprop.errors import ImageError, InputError, MissingExtraError
from relprop.explanations.heatmaps import reduce

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]
Show = Callable[[Tensor], Picture]


def atlas(
    concepts: ConceptExplanation,
    references: References,
    dataset: Any,
    x: Float[Tensor, "B C H W"],
    *,
    sample: int = 0,
    n: int = 6,
    show: Show | None = None,
    classes: Sequence[str] | None = None,
    crop: bool = True,
) -> Figure:
    """Draw a row for each concept: where it is in a sample, its share of relevance, and its reference samples.

    Red speaks for the target, blue against it, each heatmap on its own scale; shares compare the rows.

    Args:
        concepts: what `CRP(lrp, layer, TopNFeatures(n))` returned.
        references: of the same layer and group.
        dataset: what they were collected over, see `References.of`.
        x: what was explained.
        sample: which of the batch.
        n: reference samples in a row.
        show: input (C, H, W) -> picture (H, W, 3) of bytes. None: its own range as 0 to 255.
        classes: their names.
        crop: show of each reference what the concept looks at; False: all of it.

    Raises:
        InputError: references of another layer or group.
        ImageError: inputs that are no pictures.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("drawing an atlas needs matplotlib: pip install 'relprop[images]'") from error
    if (concepts.layer, concepts.group) != (references.layer, references.group):
        raise InputError(
            f"These concepts are {concepts.group!r} of {concepts.layer!r}, the reference samples those of "
            f"{references.group!r} of {references.layer!r}."
        )
    show = as_picture if show is None else show
    rows, n = len(concepts), min(n, references.store.top.found)
    figure, axes = plt.subplots(
        rows, n + 2, figsize=(1.3 * (n + 2) + 0.6, 1.45 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    own = show(x[sample])
    axes[0][0].imshow(own)
    axes[0][0].set_title("sample" if concepts.target is None else _named(concepts.target[sample], classes), fontsize=9)
    heat = reduce(torch.stack([relevance_of(part)[sample] for part in concepts]).detach().cpu())
    for k, line in enumerate(axes):
        feature, share = int(concepts.features[k, sample]), share_of(concepts, sample)[k]
        _heat(line[1], heat[k], own)
        line[1].set_ylabel(f"{feature}\n{share:.0%}", rotation=0, ha="right", va="center", fontsize=10)
        for axis, reference in zip(line[2:], references.of(feature, dataset, n), strict=True):
            axis.imshow(cropped(reference, show) if crop else show(reference.input))
            axis.set_title(f"{_named(reference.label, classes)} #{reference.sample}", fontsize=7, pad=2)
    axes[0][1].set_title("concept", fontsize=9)
    found: Figure = figure
    return found


def share_of(concepts: ConceptExplanation, sample: int) -> list[float]:
    """Each concept's share of the relevance that comes to its layer; 0 where none comes."""
    whole = concepts.scores[sample].sum()
    shares = concepts.feature_relevance[:, sample] / whole if whole != 0 else torch.zeros(len(concepts))
    return [float(share) for share in shares]


def cropped(reference: ReferenceSample, show: Show | None = None, **options: Any) -> Picture:
    """What of a reference sample its concept looks at.

    Args:
        reference: one of `References.of`.
        show: input (C, H, W) -> picture (H, W, 3) of bytes. None: its own range as 0 to 255.
        **options: those of `relprop.concepts.crops.field_of_view`.

    Raises:
        ImageError: the sample is no picture.
    """
    view = field_of_view(reference.field, **options)
    return view.of((as_picture if show is None else show)(reference.input))


def as_picture(x: Float[Tensor, "C H W"]) -> Picture:
    """An input as a picture (H, W, 3), its smallest number black and its largest white.

    Args:
        x: of one channel or three.

    Raises:
        ImageError: it is neither.
    """
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ImageError(
            "This input is no picture (C, H, W) of one channel or three: give show=, which makes one of it."
        )
    values = x.detach().cpu().double()
    low, high = values.min(), values.max()
    bytes_ = ((values - low) / (high - low if high > low else 1) * 255).round().byte()
    return bytes_.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _heat(axis: Axes, heat: Float[Tensor, "H W"], picture: Picture) -> None:
    """Relevance over the outlines of the picture."""
    scale = float(np.percentile(heat.abs().numpy(), 99.5)) or float(heat.abs().max()) or 1.0
    axis.imshow(picture.mean(2), cmap="gray", alpha=0.25)
    strength = (heat.abs() / scale).clamp(max=1).numpy() ** 0.6
    axis.imshow(heat.numpy(), cmap="seismic", vmin=-scale, vmax=scale, alpha=strength)


def _named(label: Any, classes: Sequence[str] | None) -> str:
    number = int(label)
    if number < 0:
        return ""
    return f"class {number}" if classes is None else classes[number]

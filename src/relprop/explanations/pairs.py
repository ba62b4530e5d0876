"""What makes two inputs similar: relevance of pairs of parts, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from relprop.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PairExplanation:
    """Relevance of pairs of parts for the similarity of two inputs.

    Attributes:
        relevance: (B, P, Q): of part p of the first input together with part q of the second.
        similarity: what is explained, (B,).
        grids: rows and columns of the parts of each input, where they are patches of a picture.
    """

    relevance: Float[Tensor, "B P Q"]
    similarity: Float[Tensor, " B"]
    grids: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)

    @property
    def kept(self) -> Float[Tensor, " B"]:
        """Similarity that no pair of parts has: what biases and other sinks took in either network."""
        return self.similarity - self.relevance.flatten(1).sum(1)

    def sides(self) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B Q"]]:
        """Relevance of the parts of each input, summed over those of the other."""
        return self.relevance.sum(2), self.relevance.sum(1)

    def strongest(self, n: int = 10, sample: int = 0) -> list[tuple[int, int, float]]:
        """The n pairs with the largest magnitude: part of the first input, part of the second, relevance."""
        pairs = self.relevance[sample]
        order = pairs.abs().flatten().argsort(descending=True)[:n].tolist()
        return [(i // pairs.shape[1], i % pairs.shape[1], float(pairs.flatten()[i])) for i in order]

    def plot(self, first: Any, second: Any, *, sample: int = 0, pairs: int = 40) -> Figure:
        """Draw it: two pictures with lines between their patches, or two sentences with a matrix of tokens.

        Red lines and fields speak for similarity, blue ones against it.

        Args:
            first: the first picture, (H, W) or (H, W, 3), or the first sentence's tokens, in a list.
            second: the second one.
            sample: which of the batch.
            pairs: how many lines between pictures.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ImageError: pictures were given for tokens, or tokens for pictures.
        """
        words = isinstance(first, (list, tuple)) and all(isinstance(token, str) for token in first)
        if words:
            return matrix_of_words(self.relevance[sample], first, second, "relevance for the similarity")
        if None in self.grids:
            raise ImageError(
                f"The parts of these inputs are no patches of pictures: give plot() the {self.relevance.shape[1]} and "
                f"{self.relevance.shape[2]} names of the parts, in two lists."
            )
        return _lines(self, (first, second), sample, pairs)

    def __repr__(self) -> str:
        B, P, Q = self.relevance.shape
        return f"PairExplanation({B} times {P} x {Q} pairs, similarity={[round(float(s), 4) for s in self.similarity]})"


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("drawing pairs needs matplotlib: pip install 'relprop[images]'") from error
    return plt


def matrix_of_words(relevance: Float[Tensor, "P Q"], first: Sequence[str], second: Sequence[str], label: str) -> Figure:
    """A matrix with a word at each row and column: red where relevance is positive, blue where it is negative.

    Args:
        relevance: the numbers.
        first: words of the rows.
        second: words of the columns.
        label: what the colours are.

    Raises:
        ImageError: there are more or fewer words. MissingExtraError: matplotlib is not installed.
    """
    plt = _pyplot()
    if tuple(relevance.shape) != (len(first), len(second)):
        raise ImageError(f"{len(first)} and {len(second)} tokens do not name {tuple(relevance.shape)} pairs.")
    figure, axis = plt.subplots(figsize=(1.5 + 0.4 * len(second), 1 + 0.4 * len(first)), layout="constrained")
    scale = float(relevance.abs().max()) or 1.0
    image = axis.imshow(relevance.cpu(), cmap="seismic", vmin=-scale, vmax=scale)
    axis.set_xticks(range(len(second)), second, rotation=60, ha="right")
    axis.set_yticks(range(len(first)), first)
    figure.colorbar(image, ax=axis, label=label, shrink=0.8)
    found: Figure = figure
    return found


def _lines(pairs: PairExplanation, pictures: Sequence[Any], sample: int, count: int) -> Figure:
    from matplotlib.patches import ConnectionPatch

    figure, axes = _pyplot().subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture, cmap="gray" if getattr(picture, "ndim", 3) == 2 else None)
        axis.set_axis_off()
    strongest = pairs.strongest(count, sample)
    scale = max((abs(r) for _, _, r in strongest), default=1.0) or 1.0
    for p, q, relevance in reversed(strongest):
        ends = [_centre(i, grid, picture) for i, grid, picture in zip((p, q), pairs.grids, pictures, strict=True)]
        colour, width = ("tab:red" if relevance > 0 else "tab:blue"), abs(relevance) / scale
        line = ConnectionPatch(ends[0], ends[1], "data", "data", axesA=axes[0], axesB=axes[1])
        line.set(color=colour, alpha=0.15 + 0.75 * width, linewidth=0.5 + 2 * width)
        figure.add_artist(line)
    figure.suptitle(f"similarity {float(pairs.similarity[sample]):.3g}; the {len(strongest)} strongest pairs")
    found: Figure = figure
    return found


def _centre(part: int, grid: tuple[int, int] | None, picture: Any) -> tuple[float, float]:
    """Where a patch's centre is, in the picture's own pixels."""
    assert grid is not None
    rows, columns = grid
    height, width = picture.shape[:2]
    return (part % columns + 0.5) * width / columns - 0.5, (part // columns + 0.5) * height / rows - 0.5

"""What an input is, as far as its relevance's shape and its numbers tell."""

from __future__ import annotations

from torch import Tensor

from relprop.errors import ImageError

KINDS = {
    "picture": "(C, H, W), or (H, W): the picture and its heatmap",
    "channels": "(C, H, W): a heatmap of each channel by itself, on one scale",
    "volume": "(C, D, H, W): slices on one scale",
    "series": "(C, T), or (T,): curves coloured by relevance, one for each channel",
    "tokens": "(T, D), or (T,): tokens on coloured ground",
    "row": "(F,): a bar for each feature, the strongest first",
    "matrix": "(P, Q): a field for each pair",
}
"""Forms that relevance of one sample is drawn in, and what it is shaped like."""

DIMENSIONS = {
    "picture": (2, 3),
    "channels": (3,),
    "volume": (3, 4),
    "series": (1, 2),
    "tokens": (1, 2),
    "row": (1,),
    "matrix": (2,),
}
FEATURES = 64
"""A row with more numbers than that is taken for a signal."""


def kind_of(relevance: Tensor, given: Tensor | None = None) -> str:
    """Which of `KINDS` a batch of relevance (B, ...) is: token ids are tokens, else the number of dimensions tells.

    Args:
        relevance: of a batch.
        given: the input that it is of, where it is known.

    Raises:
        ImageError: no form suits it.
    """
    if given is not None and not given.is_floating_point() and relevance.dim() == 3:
        return "tokens"
    found = {2: "row", 3: "series", 4: "picture", 5: "volume"}.get(relevance.dim())
    if found is None:
        raise ImageError(
            f"Relevance of shape {tuple(relevance.shape)} has no form of its own: give a part of it to one of "
            "relprop.figures, such as figures.matrix(axis, relevance[0, 0])."
        )
    return "series" if found == "row" and relevance.shape[1] > FEATURES else found


def check_kind(kind: str, dimensions: int) -> None:
    """Raise `ImageError` for a form that does not exist, or that a sample of so many dimensions does not have."""
    if kind not in KINDS:
        raise ImageError(f"kind={kind!r} does not exist; choose one of {', '.join(KINDS)}")
    if dimensions not in DIMENSIONS[kind]:
        fitting = [name for name, known in DIMENSIONS.items() if dimensions in known]
        raise ImageError(
            f"kind={kind!r} is for relevance of one sample shaped {KINDS[kind].partition(':')[0]}, and this has "
            f"{dimensions} dimension(s); {' and '.join(fitting) or 'no kind'} would do."
        )

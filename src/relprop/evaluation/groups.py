"""What is occluded together: pixels, patches, superpixels, tokens, features; and how much relevance each group has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relprop.errors import InputError, MissingExtraError

Score = Literal["sum", "mean"]
"""A group's relevance: the signed sum over its places, or that over their number."""


@dataclass(frozen=True)
class Groups(ABC):
    """A partition of an input's places. A place is what is occluded at once: a pixel with its channels, a token.

    Attributes:
        score: how a group's relevance follows from its places'. Where groups are of one size, both rank alike.
    """

    score: Score = "sum"

    @abstractmethod
    def labels(self, inputs: Tensor) -> Tensor:
        """The number of each place's group, from 0: (B, *places), or (1, *places) where all samples share it."""

    @abstractmethod
    def at_places(self, relevance: Tensor) -> Tensor:
        """Relevance as the analyzer gave it -> signed relevance of each place, (B, *places)."""

    @abstractmethod
    def spread(self, places: Tensor, inputs: Tensor) -> Tensor:
        """(B, *places) -> what broadcasts to the inputs."""

    def scores(self, relevance: Tensor, labels: Tensor) -> Tensor:
        """Relevance of each group, (B, groups); NaN for numbers that a sample has no group of."""
        at_places = self.at_places(relevance).double()
        if at_places.shape[1:] != labels.shape[1:]:
            raise InputError(
                f"relevance of shape {tuple(relevance.shape)} has places {tuple(at_places.shape[1:])}, but the groups "
                f"of the input have {tuple(labels.shape[1:])}. Choose other groups, or another input."
            )
        if not bool(at_places.isfinite().all()):
            raise InputError("Relevance is not finite, so that its groups have no order.")
        flat, of = at_places.flatten(1), labels.flatten(1).expand(at_places.shape[0], -1)
        sums = flat.new_zeros(flat.shape[0], int(labels.max()) + 1)
        sizes = torch.zeros_like(sums).scatter_add(1, of, torch.ones_like(flat))
        sums = sums.scatter_add(1, of, flat)
        found = sums / sizes if self.score == "mean" else sums
        return found.masked_fill(sizes == 0, torch.nan)


@dataclass(frozen=True)
class _OfPictures(Groups):
    """Of inputs (B, C, H, W): a place is a pixel with all its channels."""

    def at_places(self, relevance: Tensor) -> Tensor:
        return relevance if relevance.dim() == 3 else relevance.sum(1)

    def spread(self, places: Tensor, inputs: Tensor) -> Tensor:
        return places.unsqueeze(1)

    def _size(self, inputs: Tensor) -> tuple[int, int]:
        if inputs.dim() != 4:
            raise InputError(
                f"{type(self).__name__} needs pictures (B, C, H, W), not an input of shape {tuple(inputs.shape)}. "
                "Tokens() and Features() serve others."
            )
        return int(inputs.shape[2]), int(inputs.shape[3])


@dataclass(frozen=True)
class Pixels(_OfPictures):
    """Each pixel by itself."""

    def labels(self, inputs: Tensor) -> Tensor:
        height, width = self._size(inputs)
        return torch.arange(height * width, device=inputs.device).reshape(1, height, width)


@dataclass(frozen=True)
class Patches(_OfPictures):
    """Squares of so many pixels, those at the lower and the right border maybe smaller.

    Attributes:
        size: height and width of a patch.
    """

    size: int = 16

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"Patches takes a size of at least 1, got {self.size}.")

    def labels(self, inputs: Tensor) -> Tensor:
        height, width = self._size(inputs)
        rows = torch.arange(height, device=inputs.device) // self.size
        columns = torch.arange(width, device=inputs.device) // self.size
        return (rows[:, None] * (int(columns[-1]) + 1) + columns).unsqueeze(0)


@dataclass(frozen=True)
class Superpixels(_OfPictures):
    """Regions of similar colour by SLIC (Achanta et al. 2012), each sample its own. Needs scikit-image.

    Attributes:
        count: about how many for each picture.
        compactness: how much closeness counts against colour, which is stretched to the range 0 to 1 first.
    """

    count: int = 100
    compactness: float = 0.1

    def labels(self, inputs: Tensor) -> Tensor:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise MissingExtraError("Superpixels need scikit-image: pip install 'relprop[evaluation]'") from error
        self._size(inputs)
        found = []
        for picture in inputs.detach().float().cpu():  # scikit-image takes one picture at a time
            low, high = picture.amin(), picture.amax()
            stretched = ((picture - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0).numpy()
            regions = slic(stretched, self.count, self.compactness, channel_axis=2, start_label=0, convert2lab=False)
            found.append(torch.from_numpy(regions).long())
        return torch.stack(found).to(inputs.device)


@dataclass(frozen=True)
class Tokens(Groups):
    """Each position of ids (B, T) or of embeddings (B, T, ...)."""

    def labels(self, inputs: Tensor) -> Tensor:
        if inputs.dim() < 2:
            raise InputError(f"Tokens need an input (B, T, ...), not one of shape {tuple(inputs.shape)}.")
        return torch.arange(inputs.shape[1], device=inputs.device).unsqueeze(0)

    def at_places(self, relevance: Tensor) -> Tensor:
        return relevance if relevance.dim() == 2 else relevance.flatten(2).sum(2)

    def spread(self, places: Tensor, inputs: Tensor) -> Tensor:
        return places.reshape(*places.shape, *[1] * (inputs.dim() - 2))


@dataclass(frozen=True)
class Features(Groups):
    """Each entry of a sample by itself, such as the columns of a table (B, F)."""

    def labels(self, inputs: Tensor) -> Tensor:
        shape = inputs.shape[1:]
        return torch.arange(shape.numel(), device=inputs.device).reshape(1, *shape)

    def at_places(self, relevance: Tensor) -> Tensor:
        return relevance

    def spread(self, places: Tensor, inputs: Tensor) -> Tensor:
        return places


def groups_for(inputs: Tensor) -> Groups:
    """Patches of a 16th of a picture's shorter side, tokens of ids and of sequences (B, T, D), else features."""
    if inputs.dim() == 4:
        return Patches(size=max(1, min(int(inputs.shape[2]), int(inputs.shape[3])) // 16))
    return Tokens() if inputs.dim() == 3 or not inputs.is_floating_point() else Features()


def hidden_by(groups: Tensor, labels: Tensor) -> Tensor:
    """Groups that are occluded, (N, groups) -> places that are, (N, *places), by the labels (N or 1, *places)."""
    of = labels.flatten(1).expand(groups.shape[0], -1)
    return groups.gather(1, of).reshape(groups.shape[0], *labels.shape[1:])

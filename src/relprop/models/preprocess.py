"""From a picture file to a model's input, keeping the picture that the input shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import ImageError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

MOST_PIXELS = 1 << 26  # after resizing, which makes long and thin pictures very long
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop the centre, scale to [0, 1], and normalize: `x = (pixel - mean) / std` for each channel.

    Attributes:
        resize: the length of the shorter side, or (height, width) whatever the aspect ratio, or None.
        crop: (height, width) of the centre to keep; a smaller picture gets a black border. None keeps all.
        mean: one number per channel; one channel makes the picture grey.
        std: one number per channel.
        interpolation: one of `INTERPOLATIONS`.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ModelError(f"preprocessing with {len(self.mean)} means but {len(self.std)} standard deviations")
        if len(self.mean) not in (1, 3):
            raise ModelError(f"preprocessing needs 1 (grey) or 3 (RGB) channels, not {len(self.mean)}")
        if not all(deviation > 0 for deviation in self.std):
            raise ModelError(f"standard deviations must be positive, not {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(f"unknown interpolation {self.interpolation!r}; choose from {', '.join(INTERPOLATIONS)}")
        resize = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        if any(length < 1 for length in (*resize, *(self.crop or ()))):
            raise ModelError(f"sizes must be positive, not resize={self.resize}, crop={self.crop}")

    def __call__(self, image: Image) -> Float[Tensor, "1 C H W"]:
        """The model's input for a picture: `tensor(picture(image))`."""
        return self.tensor(self.picture(image))

    def picture(self, image: Image) -> Image:
        """The resized, cropped picture: it matches the model's input and its relevance pixel by pixel."""
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        if self.resize is not None:
            height, width = self._resized(image.height, image.width)
            if height * width > MOST_PIXELS:
                raise ImageError(
                    f"a picture of {image.width} x {image.height} would become one of {width} x {height}: cut out the "
                    "part that matters"
                )
            image = image.resize((width, height), _pillow().Resampling[self.interpolation.upper()])
        if self.crop is not None:
            left, top = round((image.width - self.crop[1]) / 2), round((image.height - self.crop[0]) / 2)
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return image

    def tensor(self, picture: Image) -> Float[Tensor, "1 C H W"]:
        """Normalize a picture that `picture` returned."""
        pixels = np.asarray(picture, dtype=np.float32).reshape(picture.height, picture.width, -1) / 255
        return (torch.from_numpy(pixels).permute(2, 0, 1)[None] - self._channels(self.mean)) / self._channels(self.std)

    @property
    def low(self) -> Float[Tensor, "1 C 1 1"]:
        """What a black pixel becomes: the lowest value that an input can have."""
        return (0 - self._channels(self.mean)) / self._channels(self.std)

    @property
    def high(self) -> Float[Tensor, "1 C 1 1"]:
        """What a white pixel becomes: the highest value that an input can have."""
        return (1 - self._channels(self.mean)) / self._channels(self.std)

    def override(
        self,
        *,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Preprocess:
        """A copy with another square input size, mean or standard deviation; one number serves every channel.

        Where the shorter side is resized and then cropped, their proportion stays as it was.
        """
        channels = len(self.mean)
        changes: dict[str, Any] = {}
        if mean is not None:
            changes["mean"] = tuple(mean) * (channels if len(mean) == 1 else 1)
        if std is not None:
            changes["std"] = tuple(std) * (channels if len(std) == 1 else 1)
        if size is not None:
            changes |= self._square(size)
        return replace(self, **changes)

    def _square(self, size: int) -> dict[str, Any]:
        if isinstance(self.resize, tuple) and self.crop is None:
            return {"resize": (size, size)}
        margin = self.resize / min(self.crop) if isinstance(self.resize, int) and self.crop else 1.0
        return {"resize": max(size, round(size * margin)), "crop": (size, size)}

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing; the longer side is rounded down, as torchvision does."""
        if not isinstance(self.resize, int):
            return self.resize or (height, width)
        short, long = sorted((height, width))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if height <= width else (longer, self.resize)

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"reading pictures needs Pillow: pip install 'relprop[images]' ({error})") from error
    return Image

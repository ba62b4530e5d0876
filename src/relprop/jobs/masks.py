"""Pictures of where relevance should lie, white on black, in a folder: one for each sample, by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relprop.errors import ImageError
from relprop.models import LoadedModel, open_picture, picture_suffixes


def mask_of(loaded: LoadedModel, folder: Path, name: str, size: Sequence[int]) -> Tensor:
    """Where the mask of a sample is white, behind the model's preprocessing, (H, W); nowhere, if it has none.

    Args:
        loaded: the model.
        folder: of the masks.
        name: of the sample, without an ending.
        size: height and width of the model's input.

    Raises:
        ImageError: the file is no readable picture, or has another size.
    """
    files = (folder / f"{name}{suffix}" for suffix in sorted(picture_suffixes()))
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return torch.zeros(tuple(size), dtype=torch.bool)
    seen = loaded.preprocess.picture(open_picture(found)).convert("L")
    mask = torch.from_numpy(np.array(seen)) > 127
    if tuple(mask.shape) != tuple(size):
        raise ImageError(f"the mask {found} is {tuple(mask.shape)} where the picture is {tuple(size)}")
    return mask


class Masks:
    """The masks of a dataset: `FOLDER/KEY`, with the ending of a picture.

    Args:
        loaded: the model.
        folder: of the masks.
        keys: of the samples, with their endings.

    Raises:
        ImageError: no sample has one.
    """

    def __init__(self, loaded: LoadedModel, folder: Path, keys: Sequence[str]) -> None:
        self._loaded, self._folder, self._keys = loaded, folder, keys
        names = {name_of(key) for key in keys}
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in picture_suffixes())
        mine = [path for path in found if name_of(path.relative_to(folder).as_posix()) in names]
        if not mine:
            raise ImageError(f"{folder} has no mask for any sample: KEY.png, white inside, for a sample KEY")
        digest = hashlib.sha256()
        for path in mine:
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode("utf-8", "replace"))
            digest.update(path.read_bytes())
        self.digest = digest.hexdigest()[:16]

    def rows(self, first: int, places: Sequence[int]) -> Tensor:
        """Those of the samples from a number on, (B, H, W); nowhere behind the last.

        Args:
            first: the number.
            places: the shape.
        """
        count, *size = places
        keys = [*self._keys[first : first + count], *[""] * count][:count]
        return torch.stack([mask_of(self._loaded, self._folder, name_of(key), size) for key in keys])


def name_of(key: str) -> str:
    """A sample's name without the ending of a picture."""
    stem, dot, ending = key.rpartition(".")
    return stem if dot and f".{ending.lower()}" in picture_suffixes() else key

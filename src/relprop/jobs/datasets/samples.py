"""Samples by number: what a source of them says, and what one of them is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Union

from torch import Tensor

from relprop.models import decode_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Content = Union["Image", Tensor, str]
"""A picture, a model's input (C, H, W) that needs no preprocessing, or a text."""

DIGITS = 16
"""Of a digest, which tells whether a sample was changed."""


@dataclass(frozen=True)
class Index:
    """Which samples there are, in an order that stays the same.

    Attributes:
        keys: a name for each, which no two have.
        sizes: of each in bytes, as far as that is known without reading it, else -1.
        labels: of each, None where nobody knows one.
    """

    keys: Sequence[str]
    sizes: Sequence[int]
    labels: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        """Of keys, sizes and labels."""
        found = hashlib.sha256()
        for row in zip(self.keys, self.sizes, self.labels, strict=True):
            found.update(repr(row).encode())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Sample:
    """One of them, as it was read, and a digest of its bytes."""

    content: Content
    digest: str


class Source(ABC):
    """A dataset whose samples can be read by number, from several threads at once."""

    kind: ClassVar[str]
    """How errors and manifests call it."""
    text: ClassVar[bool] = False
    """Whether its samples are texts."""

    @abstractmethod
    def index(self) -> Index:
        """Which samples there are."""

    @abstractmethod
    def read(self, number: int) -> Sample:
        """A sample. What is wrong with it is raised, whatever it is."""

    def example(self) -> Content | None:
        """A sample like all others, where one has to be seen to know their shape. None: pictures of any size."""
        return None


def digest_of(data: bytes | memoryview) -> str:
    """That of some bytes."""
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def picture_sample(data: bytes, name: str) -> Sample:
    """A picture from a file's bytes.

    Raises:
        ImageError: it is not readable.
    """
    return Sample(decode_picture(data, name), digest_of(data))

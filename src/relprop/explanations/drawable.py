"""What drawing and saving need of an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from relprop.explanations.ledger import Ledger


class Drawable(Protocol):
    """What an `Explanation` knows; see there."""

    @property
    def relevance(self) -> Tensor | tuple[Tensor, ...]:
        """Shaped like the input, or a tuple."""
        ...

    @property
    def target(self) -> Tensor | None:
        """The explained entry, (B,)."""
        ...

    @property
    def by_input(self) -> Mapping[str, Tensor]:
        """Relevance by input."""
        ...

    @property
    def layers(self) -> Mapping[str, Tensor]:
        """Relevance by layer."""
        ...

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Values by layer."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """The books."""
        ...

    @property
    def explains(self) -> str:
        """What is explained, in words."""
        ...

    @property
    def output(self) -> Any:
        """What the model returned."""
        ...

    @property
    def amount(self) -> Tensor | None:
        """What is explained, (B,)."""
        ...

    @property
    def given(self) -> Mapping[str, Tensor]:
        """The inputs."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What was asked, in words."""
        ...

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of outputs."""
        ...

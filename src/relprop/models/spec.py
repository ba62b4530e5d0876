"""Model specifications: one line of text that says where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Spec:
    """A parsed specification. `name` is a model's name, a folder, or a .py file, by `source`.

    `bare`: it is written without its source in front.
    """

    source: str
    name: str
    weights: str | None = None
    function: str | None = None
    bare: bool = False

    @property
    def weights_file(self) -> Path | None:
        """`weights` where it is a file rather than a name that the source knows."""
        if self.weights is None or Path(self.weights).suffix.lower() not in WEIGHT_SUFFIXES:
            return None
        return Path(self.weights).expanduser()

    def __str__(self) -> str:
        head = self.name if self.bare else f"{self.source}:{self.name}"
        function = f":{self.function}" if self.function else ""
        return head + function + (f"@{self.weights}" if self.weights else "")

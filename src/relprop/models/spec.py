"""Model specifications: one line of text that says where a model comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from relprop.errors import ModelError

FORMS = (
    "demo",
    "torchvision:NAME[@WEIGHTS]",
    "timm:NAME[@WEIGHTS]",
    "hf:ID_OR_FOLDER",
    "path/to/file.py:function[@WEIGHTS]",
)
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")

# A file may have "@" or ":" in its path, so it is recognized from the right end of the path: "….py:function".
_PYTHON = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)(?:@(?P<weights>.+))?")


@dataclass(frozen=True)
class Spec:
    """A parsed specification. `name` is a model's name, a folder, or a .py file, by `source`."""

    source: str
    name: str
    weights: str | None = None
    function: str | None = None

    @property
    def weights_file(self) -> Path | None:
        """`weights` where it is a file rather than a name that the source knows."""
        if self.weights is None or Path(self.weights).suffix.lower() not in WEIGHT_SUFFIXES:
            return None
        return Path(self.weights).expanduser()

    def __str__(self) -> str:
        head = f"{self.source}:{self.name}" if self.source not in ("demo", "python") else self.name
        function = f":{self.function}" if self.function else ""
        return head + function + (f"@{self.weights}" if self.weights else "")


def parse(text: str) -> Spec:
    """Read a specification.

    Raises:
        ModelError: the text has none of the known forms; the message lists them.
    """
    text = text.strip()
    if text == "demo":
        return Spec("demo", "demo")
    if match := _PYTHON.fullmatch(text):
        return Spec("python", match["file"], match["weights"], match["function"])
    source, colon, rest = text.partition(":")
    if colon and source == "hf" and rest:
        return Spec("hf", rest)  # a folder may have "@" in its name, and an id never has weights apart from itself
    if colon and source in ("torchvision", "timm"):
        name, at, weights = rest.partition("@")
        if name and bool(at) == bool(weights):
            return Spec(source, name, weights or None)
    raise ModelError(f"{text!r} is no model specification; it is one of: {', '.join(FORMS)}")

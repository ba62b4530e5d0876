"""What relprop notes beside a program in an artifact."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

METADATA = "relprop.json"
"""Name of the file inside the artifact that holds the metadata."""

FORMAT = 2
"""Version of the artifact's calling convention and metadata: 2 has names of classes, composite and options."""


def showable(text: str) -> str:
    """The text with `�` for each character that a terminal would obey, or that no file can hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


@dataclass(frozen=True)
class InputSpec:
    """One flat input: its dtype (None: no tensor, a constant), and sizes, where a name stands for any size."""

    name: str
    dtype: str | None
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}({', '.join(map(str, self.shape))})" if self.dtype else self.name


@dataclass(frozen=True)
class Metadata:
    """What relprop notes in an artifact, as JSON.

    Attributes:
        format: version of the calling convention. relprop, torch: versions of the packages that wrote it.
        model: class of the model. rules: the analyzer as it prints itself.
        target: what is explained, in words. takes_target: the target is an input.
        checks_finite: inputs that are not finite are to be refused.
        device: where the program runs. positional, keywords: names of the arguments that it is called with.
        inputs: its flat inputs. explained: shape of one sample's explained output, None for a size that varies.
        relevance, layers: names of the results. classes: names of the outputs, where the analyzer knew them.
        composite, options: of the analyzer, as it is called again.
    """

    format: int
    relprop: str
    torch: str
    model: str
    rules: str
    target: str
    takes_target: bool
    checks_finite: bool
    device: str
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    explained: tuple[int | None, ...]
    relevance: tuple[str, ...]
    layers: tuple[str, ...]
    classes: tuple[str, ...] = ()
    composite: str = ""
    options: str = ""

    def to_json(self) -> str:
        """As it stands in the file; `from_json` reads it."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Raises `KeyError`, `TypeError` or `ValueError` where the text is no such thing."""
        known: dict[str, Any] = json.loads(text)
        inputs = tuple(InputSpec(i["name"], i["dtype"], tuple(i["shape"])) for i in known.pop("inputs"))
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}
        metadata = cls(inputs=inputs, **values)
        metadata._check()
        return metadata

    def _check(self) -> None:
        """Each field is of its type, and shows as what it is: a text from a file goes to the terminal."""
        for field in fields(self):
            value, wanted = getattr(self, field.name), _TYPES[field.type]
            parts = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) is not wanted[0] or not all(isinstance(part, wanted[1]) for part in parts):
                raise TypeError(f"{field.name} is {value!r}")
        for spec in self.inputs:
            sizes = all(isinstance(size, (int, str)) for size in spec.shape)
            if not (isinstance(spec.name, str) and isinstance(spec.dtype, (str, type(None))) and sizes):
                raise TypeError(f"an input is {spec!r}")
        names = (*self.positional, *self.keywords)
        if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"the arguments are called {names}")
        texts = (
            self.relprop,
            self.torch,
            self.model,
            self.rules,
            self.target,
            self.device,
            self.composite,
            self.options,
            *self.relevance,
            *self.layers,
            *self.classes,
        )
        sizes_and_names = (str(part) for spec in self.inputs for part in (spec.name, spec.dtype, *spec.shape))
        for text in (*texts, *sizes_and_names):
            if text != showable(text):
                raise ValueError(f"{text!r} has characters that cannot be shown")


# How a field is annotated -> whether it is a tuple, and the type of its parts.
_TYPES: dict[Any, tuple[bool, type | tuple[type, ...]]] = {
    "int": (False, int),
    "str": (False, str),
    "bool": (False, bool),
    "tuple[str, ...]": (True, str),
    "tuple[int | None, ...]": (True, (int, type(None))),
    "tuple[InputSpec, ...]": (True, InputSpec),
}

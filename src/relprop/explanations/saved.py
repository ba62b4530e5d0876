"""Explanations as files: tensors in the safetensors format, and what else there is as JSON in their metadata.

Nothing in such a file is code, and nothing of it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from relprop.errors import ArtifactError, MissingExtraError
from relprop.explanations.drawable import Drawable
from relprop.explanations.files import replacing
from relprop.explanations.ledger import Entry, Ledger

FORMAT, VERSION = "relprop.explanation", 1
Made = TypeVar("Made")
PLAIN = ("by_input", "layers", "activations", "parameters", "coefficients", "edges", "places")
"""Fields of an explanation that are tensors by name."""


def save(explanation: Drawable, path: str | Path, *, inputs: bool = True) -> None:
    """Write an explanation, whole or not at all. See `Explanation.save`."""
    safetensors, box = _safetensors(), Box()
    known: dict[str, Any] = {name: box.packed(getattr(explanation, name), name) for name in PLAIN}
    known |= {name: box.packed(getattr(explanation, name), name) for name in ("relevance", "target", "amount")}
    known["output"] = box.packed(explanation.output, "output")
    known["given"] = box.packed(explanation.given if inputs else {}, "given")
    known["explains"], known["settings"] = explanation.explains, dict(explanation.settings)
    known["classes"] = None if explanation.classes is None else list(explanation.classes)
    known["ledger"] = None if explanation.ledger is None else _written(explanation.ledger)
    metadata = {"format": FORMAT, "version": str(VERSION), "explanation": json.dumps(known, allow_nan=False)}
    with replacing(Path(path), ArtifactError) as temporary:
        safetensors.save_file(box.tensors, temporary, metadata)


def load(path: str | Path, make: Callable[..., Made]) -> Made:
    """Read what `save` wrote. See `Explanation.load`.

    Args:
        make: the class of what is read.
    """
    import safetensors

    _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ArtifactError(
                    f"{path} holds tensors, but no explanation: Explanation.load reads what Explanation.save wrote; "
                    "safetensors.torch.load_file reads relevance that the command line wrote."
                )
            if metadata.get("version") != str(VERSION):
                raise ArtifactError(
                    f"{path} was written in version {metadata.get('version')} of the format, and this relprop reads "
                    f"version {VERSION}: pip install --upgrade relprop."
                )
            box = Box({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 it is no dict
        return _explanation(json.loads(metadata["explanation"]), box, make)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{path} is no explanation, or a torn one: {type(error).__name__}: {error}. Save it anew with "
            "Explanation.save."
        ) from error


@dataclass
class Box:
    """Tensors by number; values of which they are parts refer to them, so that one tensor is written once."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    _keys: dict[int, str] = field(default_factory=dict)
    _held: list[Tensor] = field(default_factory=list)  # an id is one only as long as its tensor lives

    def packed(self, value: Any, name: str) -> Any:
        """A value as JSON that `unpacked` reads."""
        if isinstance(value, Tensor):
            return {"tensor": self._put(value)}
        if isinstance(value, Mapping):  # outputs of Hugging Face are mappings, too
            return {"dict": [[str(k), self.packed(v, f"{name}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, (tuple, list)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self.packed(v, f"{name}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or isinstance(value, (str, int, float)):
            return value
        raise ArtifactError(f"{name} holds a {type(value).__name__}, which no explanation file can hold.")

    def unpacked(self, value: Any) -> Any:
        """The value that was packed."""
        if not isinstance(value, dict):
            return value
        ((kind, held),) = value.items()
        if kind == "tensor":
            return self.tensors[held]
        if kind == "dict":
            return {k: self.unpacked(v) for k, v in held}
        if kind in ("tuple", "list"):
            several = [self.unpacked(v) for v in held]
            return several if kind == "list" else tuple(several)
        if kind == "float":
            return float(held)
        raise ValueError(f"unknown kind {kind!r}")

    def _put(self, tensor: Tensor) -> str:
        if id(tensor) not in self._keys:
            self._keys[id(tensor)] = str(len(self.tensors))
            self._held.append(tensor)
            # A tensor of its own, since safetensors refuses those that share memory.
            self.tensors[self._keys[id(tensor)]] = torch.clone(
                tensor.detach().cpu(), memory_format=torch.contiguous_format
            )
        return self._keys[id(tensor)]


def _explanation(known: Mapping[str, Any], box: Box, make: Callable[..., Made]) -> Made:
    names = (*PLAIN, "relevance", "target", "amount", "output", "given")
    known = {"places": {"dict": []}, **known}  # files from before have none
    values = {name: box.unpacked(known[name]) for name in names}
    relevance = values.pop("relevance")
    if not isinstance(relevance, (Tensor, tuple)):
        raise ValueError("there is no relevance in it")
    later = {name: values.pop(name) for name in ("amount", "output", "given")}
    ledger = None if known["ledger"] is None else _read(known["ledger"])
    found = make(relevance, values.pop("target"), ledger=ledger, **values)
    later |= {"explains": str(known["explains"]), "settings": dict(known["settings"]), "classes": known["classes"]}
    found.__dict__.update(later)
    return found


def _written(ledger: Ledger) -> dict[str, Any]:
    box = Box()
    entries = [
        [box.packed(getattr(e, f.name) if f.name != "rule" else str(e.rule), f.name) for f in fields(Entry)]
        for e in ledger.entries
    ]
    return {"entries": entries, "output": box.packed(ledger.output, ""), "input": box.packed(ledger.input, "")}


def _read(known: Mapping[str, Any]) -> Ledger:
    box, names = Box(), [f.name for f in fields(Entry)]
    entries = [Entry(**dict(zip(names, map(box.unpacked, each), strict=True))) for each in known["entries"]]
    return Ledger(tuple(entries), box.unpacked(known["output"]), box.unpacked(known["input"]))


def _safetensors() -> Any:
    try:
        from safetensors import torch as safetensors
    except ImportError as error:
        raise MissingExtraError(f"saving relevance needs safetensors: pip install 'relprop[cli]' ({error})") from error
    return safetensors

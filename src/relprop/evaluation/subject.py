"""What metrics ask a model: the value that is tracked, at inputs of which one is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.targets import Sum, Target, TargetLike, as_target

Track = Literal["logit", "probability"] | Callable[[Tensor], Tensor]
"""`"logit"`: the amount that the target speaks of, of an entry its value; `"probability"`: the entry's softmax over the
last dimension; or a function from outputs (N, ...) to (N,)."""

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""A model's inputs in one object: a tensor, a tuple, or a dict of keyword inputs."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model at a batch, as a function of one of its inputs.

    Args:
        model: in evaluation mode or not: a copy in evaluation mode is asked then.
        inputs: as the analyzer gets them.
        target: what is explained of each sample. What it chooses, such as the largest output, it chooses for the
            unchanged inputs.
        track: the value that curves show.
        changed: which input is changed, by its name in a dict or its number. None: the first.
        output: which output is explained, as the analyzer was told.
        classes: their names, as the analyzer knows them.
    """

    model: nn.Module
    inputs: Inputs
    target: TargetLike = None
    track: Track = "logit"
    changed: str | int | None = None
    output: str | int | None = None
    classes: Sequence[str] | None = None
    index: Tensor | None = field(init=False)
    _held: Target = field(init=False)

    def __post_init__(self) -> None:
        if not (callable(self.track) or self.track in ("logit", "probability")):
            raise InputError(f"track={self.track!r}: give 'logit', 'probability' or a function of the outputs.")
        if self.changed is not None and self.changed not in self._named():
            raise InputError(f"changed={self.changed!r} is none of the inputs {list(self._named())}.")
        trains = any(getattr(m, "training", False) for m in self.model.modules())  # frozen TorchScript has no such mode
        model = deepcopy(self.model).eval() if trains else self.model
        object.__setattr__(self, "model", model)
        target = as_target(self.target, self.classes)
        object.__setattr__(self, "output", self.output if target.output is None else target.output)
        with torch.no_grad():
            output = output_of(self._asked(self.model, self.x, None), self.output)
            held = target.held(output)
        object.__setattr__(self, "_held", held)
        object.__setattr__(self, "index", held.index(output))
        if self.index is None and self.track == "probability":
            raise InputError("track='probability' needs a target that is one entry of the output.")

    def _named(self) -> dict[str | int, Any]:
        if isinstance(self.inputs, Mapping):
            return dict(self.inputs.items())
        return dict(enumerate([self.inputs] if isinstance(self.inputs, Tensor) else self.inputs))

    @property
    def key(self) -> str | int:
        """Name or number of the input that is changed."""
        return next(iter(self._named())) if self.changed is None else self.changed

    @property
    def x(self) -> Tensor:
        """The input that is changed, (B, ...)."""
        x = self._named()[self.key]
        if not isinstance(x, Tensor):
            raise InputError(f"The input {self.key!r} is no tensor; say by changed= which one is occluded.")
        return x

    def __len__(self) -> int:
        return len(self.x)

    def values(self, x: Tensor, rows: Tensor, model: Callable[..., Any] | None = None) -> Tensor:
        """The tracked value of each row, (N,), in double precision.

        Args:
            x: (N, ...), the changed input.
            rows: which sample each of them is made of, (N,).
            model: what is asked instead of the model.
        """
        with torch.no_grad():
            output = output_of(self._asked(model or self.model, x, rows), self.output)
        if callable(self.track):
            return self.track(output).double()
        output = output.double()
        if self.index is None:
            return self._target(rows).amount(output)
        if self.track == "probability":
            output = output.softmax(-1)
        return output.reshape(len(rows), -1).gather(1, self.index[rows, None]).squeeze(1)

    def call(self, model: Callable[..., Any]) -> Any:
        """What another model returns for the unchanged inputs."""
        return self._asked(model, self.x, None)

    def of(self, rows: slice | Tensor, x: Tensor | None = None) -> tuple[Inputs, Target]:
        """Inputs and targets of some samples, for analyzers; with other values `x` of the input that is changed."""
        inputs = self._named() if x is None else self._named() | {self.key: x}
        inputs = {key: self._rows(value, rows) for key, value in inputs.items()}
        target = self._target(torch.arange(len(self), device=self.x.device)[rows])
        if isinstance(self.inputs, Tensor):
            return inputs[0], target
        named = isinstance(self.inputs, Mapping)
        return ({str(key): x for key, x in inputs.items()} if named else tuple(inputs.values())), target

    def _target(self, rows: Tensor) -> Target:
        return at_rows(self._held, rows, len(self))

    def _rows(self, x: Any, rows: Tensor | slice) -> Any:
        per_sample = isinstance(x, Tensor) and x.dim() > 0 and len(x) == len(self)
        return x[rows] if per_sample else x

    def _asked(self, model: Callable[..., Any], x: Tensor, rows: Tensor | None) -> Any:
        inputs = self._named()
        if rows is not None:
            inputs = {key: self._rows(value, rows) for key, value in inputs.items()}
        inputs[self.key] = x
        if isinstance(self.inputs, Mapping):
            return model(**{str(key): value for key, value in inputs.items()})
        return model(*inputs.values())


def at_rows(target: Target, rows: Tensor, batch: int) -> Target:
    """A target of a batch, of some of its samples.

    Args:
        target: of the whole batch.
        rows: the samples, (N,).
        batch: how many there are in the whole batch.
    """
    if isinstance(target, Sum):
        return Sum(tuple((w, at_rows(part, rows, batch)) for w, part in target.terms))
    if not (target.for_one_batch and is_dataclass(target)):
        return target
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(target)):
        value = getattr(target, name)
        if isinstance(value, Target):
            changed[name] = at_rows(value, rows, batch)
        elif isinstance(value, Tensor) and value.dim() and len(value) == batch:
            changed[name] = value[rows.to(value.device)]
    return replace(target, **changed)


def output_of(output: Any, which: str | int | None = None) -> Tensor:
    """The tensor (B, ...) that is explained, among what a model returned.

    Raises:
        InputError: there is none, or none of that name.
    """
    found = output
    if isinstance(output, Mapping) or hasattr(output, "keys"):
        names = list(output.keys())
        name = which if which in names else next((n for n in ("logits", "out") if n in names), names[0])
        found = output[names[which] if isinstance(which, int) else name]
    elif isinstance(output, (tuple, list)):
        named = getattr(output, "_fields", ())
        found = output[named.index(which) if which in named else which if isinstance(which, int) else 0]
    if not isinstance(found, Tensor):
        raise InputError(
            f"The model returned {type(found).__name__}, no tensor. Say by output= which one is explained."
        )
    return found

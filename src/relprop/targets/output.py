"""Targets on an output: one entry of it, the largest, or what a function says.

`as_target` translates what users write (None, an int, a tensor, a tuple, a name, a function) into these values, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any, ClassVar, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.names import resolve_target
from relprop.targets.target import Shape, Target

TargetLike = Target | SupportsIndex | str | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None
"""None: the largest output of each sample. int, or the name of a class: that class. (B,) integers: a class per sample.
tuple: an index into the dimensions behind the batch. callable: output (B, ...) -> its relevance (B, ...)."""

HOW = (
    "give None, a class index, the name of a class, a LongTensor of shape (B,), a tuple that indexes one sample's "
    "output, a function from the output to its relevance, or one of relprop.targets."
)


class Entry(Target):
    """Targets that explain one entry of each sample's output: relevance is 1 there (or its value), 0 elsewhere."""

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: bool
    ) -> Float[Tensor, "B *output"]:
        assert index is not None
        flat, position = output.reshape(output.shape[0], -1), index.unsqueeze(1)
        value = flat.new_ones(()).expand(position.shape) if normalize else flat.gather(1, position)
        return torch.zeros_like(flat).scatter(1, position, value).reshape(output.shape)


@dataclass(frozen=True)
class Largest(Entry):
    """The largest entry of each sample's output."""

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return output.reshape(output.shape[0], -1).argmax(1)

    def __str__(self) -> str:
        return "the largest output of each sample"


@dataclass(frozen=True)
class Index(Entry):
    """The entry at one position of every sample's output, one number per dimension; from the end if negative."""

    position: tuple[int, ...]
    knows_index: ClassVar[bool] = True

    def check(self, batch: int, shape: Shape) -> None:
        if all(size is not None for size in shape):
            self._flat([int(size) for size in shape if size is not None])

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return torch.full((output.shape[0],), self._flat(output.shape[1:]), dtype=torch.long, device=output.device)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        if len(self.position) < 2 or shape[0] is None:
            return None
        return self.position[0] % shape[0], Index((0, *self.position[1:]))

    def _flat(self, shape: Sequence[int]) -> int:
        """The number of the entry in one sample's flattened output (*shape,)."""
        scalar = not shape and self.position in ((0,), (-1,))
        if len(self.position) != max(len(shape), 1) and not scalar:
            raise TargetError(
                f"target={self._given} has {len(self.position)} entries, but one sample's output has shape "
                f"{tuple(shape)}. Give one index per dimension, as a tuple."
            )
        flat = 0
        for i, size in zip(self.position, shape or (1,), strict=True):
            if not -size <= i < size:
                raise TargetError(
                    f"target={self._given} is out of range: one sample's output has shape {tuple(shape)}."
                )
            flat = flat * size + i % size
        return flat

    @property
    def _given(self) -> str:
        return str(self.position[0] if len(self.position) == 1 else self.position)

    def __str__(self) -> str:
        return f"output {self._given}"


@dataclass(frozen=True, eq=False)
class PerSample(Entry):
    """An entry for each sample of a batch: integers (B,), which number the classes of an output (B, classes)."""

    classes: Int[Tensor, " B"]
    knows_index: ClassVar[bool] = True
    for_one_batch: ClassVar[bool] = True

    def check(self, batch: int, shape: Shape) -> None:
        if tuple(self.classes.shape) != (batch,):
            raise TargetError(
                f"target has shape {tuple(self.classes.shape)}, but there are {batch} samples: it must be ({batch},)."
            )
        if len(shape) != 1:
            sizes = ", ".join("?" if size is None else str(size) for size in shape)
            raise TargetError(f"a target tensor needs an output of shape (B, classes), got (B, {sizes}).")
        outputs = shape[0]
        if outputs is None or self.classes.is_meta:
            return
        low, high = (int(end) for end in torch.aminmax(self.classes))
        if low < -outputs or high >= outputs:
            wrong = low if low < -outputs else high
            raise TargetError(
                f"target {wrong} is out of range: the model has {outputs} outputs, so 0 to {outputs - 1}."
            )

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return self.classes.to(device=output.device, dtype=torch.long) % output.shape[1]

    def __str__(self) -> str:
        return f"classes {self.classes.tolist()}"


@dataclass(frozen=True, eq=False)
class Given(Entry):
    """An entry for each sample, by its number in the flattened output (B,): what a program has as an input."""

    flat: Int[Tensor, " B"]
    knows_index: ClassVar[bool] = True
    for_one_batch: ClassVar[bool] = True

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return torch.where(self.flat < 0, self.flat + prod(output.shape[1:]), self.flat)


@dataclass(frozen=True)
class Function(Target):
    """What a function from the output (B, ...) says: its relevance, in the same shape. It gets a copy."""

    function: Callable[[Tensor], Tensor]
    traceable: ClassVar[bool] = False

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: bool
    ) -> Float[Tensor, "B *output"]:
        seed = self.function(output.clone())
        if not isinstance(seed, Tensor) or seed.shape != output.shape:
            got = f"shape {tuple(seed.shape)}" if isinstance(seed, Tensor) else type(seed).__name__
            raise TargetError(
                f"a target function must return relevance shaped like the output {tuple(output.shape)}, got {got}."
            )
        return seed.to(device=output.device, dtype=output.dtype)

    def __str__(self) -> str:
        return f"the function {getattr(self.function, '__name__', self.function)}"


def as_target(given: TargetLike, classes: Sequence[str] | None = None) -> Target:
    """What a user gave as a target, as a value.

    Args:
        given: a target, or one of the forms of `TargetLike`.
        classes: names of the model's classes, if they are known.

    Raises:
        TargetError: it is none of the forms, or names no class.
    """
    if isinstance(given, Target):
        return given
    if given is None:
        return Largest()
    if isinstance(given, str):
        return Index((_class_named(given, classes),))
    if isinstance(given, Tensor):
        return _of_tensor(given)
    if callable(given):
        return Function(given)
    if isinstance(given, Integral) and not isinstance(given, bool):
        return Index((int(given),))
    if isinstance(given, (list, tuple)) and given and all(_is_integer(i) for i in given):
        return Index(tuple(int(i) for i in given))
    raise TargetError(f"target={given!r}: {HOW}")


def _of_tensor(given: Tensor) -> Target:
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TargetError(f"target has dtype {given.dtype}; a target tensor holds class indices, so integers.")
    return PerSample(given) if given.dim() else Index((int(given),))


def _is_integer(value: Any) -> bool:
    whole = isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point()
    return whole or (isinstance(value, Integral) and not isinstance(value, bool))


def _class_named(name: str, classes: Sequence[str] | None) -> int:
    if classes is None:
        raise TargetError(
            f"target={name!r} is a name, but this model's classes have no names: give an index, or the names of all "
            "classes in LRP(model, classes=[...])."
        )
    return resolve_target(name, classes, len(classes))

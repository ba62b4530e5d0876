"""Targets on an output: one entry of it, the largest, or what a function says.

`as_target` translates what users write (None, an int, a tensor, a tuple, a name, a function) into these values, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.names import resolve_target
from relprop.targets.target import Normalize, Shape, Target, per_sample

TargetLike = Target | SupportsIndex | str | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None
"""None: the largest output of each sample. int, or the name of a class: that class. (B,) integers, or one-hot rows: a
class per sample. tuple: an index into the dimensions behind the batch. callable: output (B, ...) -> its relevance
(B, ...), and a floating point tensor that relevance itself."""

HOW = (
    "give None, a class index, the name of a class, a LongTensor of shape (B,), a tuple that indexes one sample's "
    "output, a function from the output to its relevance, or one of relprop.targets."
)


class Entry(Target):
    """Targets that explain one entry of each sample's output: `s = y = z_t` there, 0 elsewhere.

    Normalized, relevance starts with 1 or −1, and with 1 where the entry is 0.
    """

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: Normalize
    ) -> Float[Tensor, "B *output"]:
        assert index is not None
        flat, position = output.reshape(output.shape[0], -1), index.unsqueeze(1)
        if normalize is True:
            start = flat.new_ones(()).expand(position.shape)
        else:
            z = flat.gather(1, position)
            start = z if normalize is False else torch.where(z < 0, -1, 1).to(z.dtype)
        return torch.zeros_like(flat).scatter(1, position, start).reshape(output.shape)

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self.seed(output, self.index(output), normalize=False)

    def started(self, y: Float[Tensor, " B"], normalize: Normalize) -> Float[Tensor, " B"]:
        return y if normalize is False else torch.where(y == 0, 1, super().started(y, normalize))

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        index = self.index(output)
        assert index is not None
        return output.reshape(output.shape[0], -1).gather(1, index.unsqueeze(1)).squeeze(1)

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self.seed(output, self.index(output), normalize=True)

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        index = self.index(output)
        assert index is not None
        return Given(index)


@dataclass(frozen=True)
class Largest(Entry):
    """The largest entry of each sample's output."""

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return output.reshape(output.shape[0], -1).argmax(1)

    def __str__(self) -> str:
        return "the largest output of each sample"


@dataclass(frozen=True)
class Logit(Entry):
    """One entry of every sample's output, `y = z_t`.

    Args:
        position: a number, from the end if negative, one for each dimension in a tuple, or the name of a class.
    """

    position: int | str | tuple[int, ...]
    knows_index = True

    def __post_init__(self) -> None:
        if not isinstance(self.position, str):
            several = self.position if isinstance(self.position, (tuple, list)) else (self.position,)
            if not several or not all(map(_is_integer, several)):
                raise TargetError(f"Logit({self.position!r}): give a class index or name, or a tuple of indices.")
            numbers = tuple(int(i) for i in several)
            object.__setattr__(self, "position", numbers[0] if len(numbers) == 1 else numbers)

    def resolved(self, classes: Sequence[str] | None) -> Target:
        return Logit(_class_named(self.position, classes)) if isinstance(self.position, str) else self

    def check(self, batch: int, shape: Shape) -> None:
        if all(size is not None for size in shape):
            self._flat([int(size) for size in shape if size is not None])

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return torch.full((output.shape[0],), self._flat(output.shape[1:]), dtype=torch.long, device=output.device)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        if len(self._numbers) < 2 or shape[0] is None:
            return None
        return self._numbers[0] % shape[0], Logit((0, *self._numbers[1:]))

    def _flat(self, shape: Sequence[int]) -> int:
        """The number of the entry in one sample's flattened output (*shape,)."""
        scalar = not shape and self.position in (0, -1)
        if len(self._numbers) != max(len(shape), 1) and not scalar:
            each = " For a class per sample, give torch.tensor(target)." if len(shape) == 1 else ""
            raise TargetError(
                f"target={self.position} has {len(self._numbers)} entries, but one sample's output has shape "
                f"{tuple(shape)}. Give one index per dimension, as a tuple.{each}"
            )
        flat = 0
        for i, size in zip(self._numbers, shape or (1,), strict=True):
            if not -size <= i < size:
                raise TargetError(
                    f"target={self.position} is out of range: one sample's output has shape {tuple(shape)}."
                )
            flat = flat * size + i % size
        return flat

    @property
    def _numbers(self) -> tuple[int, ...]:
        if isinstance(self.position, str):
            return (_class_named(self.position, None),)
        return self.position if isinstance(self.position, tuple) else (self.position,)

    def __str__(self) -> str:
        return f"output {self.position}"


@dataclass(frozen=True, eq=False)
class PerSample(Entry):
    """An entry for each sample of a batch: integers (B,), which number the classes of an output (B, classes)."""

    classes: Int[Tensor, " B"]
    knows_index = True
    traceable = True
    for_one_batch = True

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
    knows_index = True
    traceable = True
    for_one_batch = True

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return torch.where(self.flat < 0, self.flat + prod(output.shape[1:]), self.flat)

    def __str__(self) -> str:
        return f"outputs {self.flat.tolist()}"


class Verbatim(Target):
    """Targets that say themselves with which relevance the output starts, whatever `normalize_output` is."""

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: Normalize
    ) -> Float[Tensor, "B *output"]:
        return self.value(output)

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self.value(output)

    def started(self, y: Float[Tensor, " B"], normalize: Normalize) -> Float[Tensor, " B"]:
        return y

    def change(self, output: Float[Tensor, "B *output"], other: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        """`Σ s (z − z')`, with the relevance s of z as weights: what a derivative is of, from one output to another."""
        s = self.value(output)
        return per_sample(torch.where(s == 0, 0, s * (output - other)))


@dataclass(frozen=True)
class Function(Verbatim):
    """What a function from the output (B, ...) says: its relevance, in the same shape. It gets a copy."""

    function: Callable[[Tensor], Tensor]
    traceable = False

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        s = self.function(output.clone())
        if not isinstance(s, Tensor) or s.shape != output.shape:
            got = f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else type(s).__name__
            scores = isinstance(s, Tensor) and s.shape in ((), output.shape[:1])
            hint = (
                " For a score of the output, such as the mean over a region, see relprop.targets (Mask, Difference, "
                "Similarity, Sum), or let a module that ends in it be the model."
            )
            raise TargetError(
                f"a target function must return relevance shaped like the output {tuple(output.shape)}, got {got}."
                + (hint if scores else "")
            )
        return s.to(device=output.device, dtype=output.dtype)

    def __str__(self) -> str:
        return f"the function {getattr(self.function, '__name__', self.function)}"


@dataclass(frozen=True, eq=False)
class Relevance(Verbatim):
    """Relevance itself, (B, *output), as Zennit's attributors take it."""

    relevance: Float[Tensor, "B *output"]
    for_one_batch = True

    def check(self, batch: int, shape: Shape) -> None:
        given = tuple(self.relevance.shape)
        if len(given) != len(shape) + 1 or any(n not in (None, m) for m, n in zip(given, (batch, *shape), strict=True)):
            sizes = ", ".join("?" if size is None else str(size) for size in (batch, *shape))
            raise TargetError(
                f"a floating point target is relevance shaped like the output ({sizes}), got {given}; "
                "for classes give integers (B,)."
            )
        if not self.relevance.isfinite().all() or not self.relevance.any():
            raise TargetError("a floating point target is relevance: this one is all 0, or not finite.")

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self.relevance.to(device=output.device, dtype=output.dtype)

    def __str__(self) -> str:
        return f"relevance {tuple(self.relevance.shape)}"


def as_target(given: TargetLike, classes: Sequence[str] | None = None) -> Target:
    """What a user gave as a target, as a value.

    Args:
        given: a target, or one of the forms of `TargetLike`.
        classes: names of the model's classes, if they are known.

    Raises:
        TargetError: it is none of the forms, or names no class.
    """
    return unresolved(given).resolved(classes)


def unresolved(given: TargetLike) -> Target:
    """What was given as a target, as a value in which names of classes are still names.

    Raises:
        TargetError: it is none of the forms.
    """
    if isinstance(given, Target):
        return given
    if given is None:
        return Largest()
    if isinstance(given, str):
        return Logit(given)
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    if isinstance(given, Tensor):
        return _of_tensor(given)
    if callable(given):
        return Function(given)
    if isinstance(given, Integral) and not isinstance(given, bool):
        return Logit(int(given))
    if isinstance(given, (list, tuple)) and given and all(_is_integer(i) for i in given):
        return Logit(tuple(int(i) for i in given))
    raise TargetError(f"target={given!r}: {HOW}")


def entry_of(given: TargetLike, kind: str) -> Entry:
    """What was given as the one entry that a kind of target speaks of.

    Raises:
        TargetError: it is more than one entry.
    """
    found = unresolved(given)
    if not isinstance(found, Entry):
        raise TargetError(f"{kind} speaks of one entry of each sample's output, so give a class, not {found}.")
    return found


def _of_tensor(given: Tensor) -> Target:
    if given.is_floating_point() and given.dim() > 1:
        return _of_rows(given)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TargetError(f"target has dtype {given.dtype}; a target tensor holds class indices, so integers.")
    return PerSample(given) if given.dim() else Logit(int(given))


def _of_rows(given: Tensor) -> Target:
    """Rows with one 1 name a class for each sample; what else there is in them, relevance."""
    one_hot = given.dim() == 2 and bool(((given == 1).sum(1) == 1).all()) and int(given.count_nonzero()) == len(given)
    return OneHot(given) if one_hot else Relevance(given)


@dataclass(frozen=True, eq=False)
class OneHot(Entry):
    """A class for each sample, as rows (B, classes) with one 1."""

    rows: Float[Tensor, "B classes"]
    for_one_batch = True

    def check(self, batch: int, shape: Shape) -> None:
        Relevance(self.rows).check(batch, shape)

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        return self.rows.argmax(1).to(output.device)

    def __str__(self) -> str:
        return f"classes {self.rows.argmax(1).tolist()}"


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

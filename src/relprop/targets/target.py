"""What a target is: a frozen value that says what of an output is explained, and where relevance starts.

The letters: z (B, *output) the output, s (B, *output) the relevance that starts there, y (B,) the amount explained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError

Shape = Sequence[int | None]
"""Of one sample's output, (*output,); None for a size that the capture left open."""

Normalize = bool | Literal["magnitude"]
"""How relevance starts: `"magnitude"` s / |y|, `True` s / y, `False` s; where y is 0, with s."""


class Target(ABC):
    """What of an output (B, *output) is explained. Subclass it, as a frozen dataclass, to make your own.

    `value` says which share each entry has in the explained amount. All methods are pure functions of the output, so
    that programs can be batched, compiled and exported. Targets can be added, subtracted and multiplied by numbers.
    """

    knows_index: bool = False
    """`index` follows from the output's shape alone."""

    @property
    def traceable(self) -> bool:
        """It reads no values of tensors into Python, and holds no tensor: `torch.compile` may follow it."""
        held = any(isinstance(value, Tensor) for value in self._fields().values())
        return not held and all(part.traceable for part in self.parts())

    @property
    def for_one_batch(self) -> bool:
        """It holds something for each sample of one batch."""
        return any(part.for_one_batch for part in self.parts())

    @property
    def output(self) -> str | int | None:
        """Name or number of the model's output that it speaks of; None: the one that the analyzer explains."""
        spoken = {part.output for part in self.parts()}
        if len(spoken) > 1:
            raise TargetError(
                f"{self} speaks of several outputs. Relevance is linear: explain each by itself, with "
                "each(targets=[...]), and add."
            )
        return spoken.pop() if spoken else None

    def parts(self) -> Iterator[Target]:
        """The targets that it is made of."""
        return (value for value in self._fields().values() if isinstance(value, Target))

    def resolved(self, classes: Sequence[str] | None) -> Target:
        """The same with indices in the place of names of classes.

        Args:
            classes: names of the model's classes, if they are known.

        Raises:
            TargetError: no class has that name, or the classes have none.
        """
        return self._with({n: v.resolved(classes) for n, v in self._fields().items() if isinstance(v, Target)})

    def check(self, batch: int, shape: Shape) -> None:
        """Look for what is wrong before any work, as far as the sizes in `shape` are known.

        Raises:
            TargetError: the target selects nothing in an output (batch, *shape).
        """
        for part in self.parts():
            part.check(batch, shape)

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"] | None:
        """The explained entry of each sample's flattened output; None where it is not one entry."""
        return None

    @abstractmethod
    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        """s, the share of each entry in what is explained; with `sinks`, it sums to `amount`."""

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        """What of the amount is no entry's, by name: y = Σ s + Σ sinks."""
        return {}

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        """y, the number that is explained."""
        return per_sample(self.value(output)) + sum(self.sinks(output).values())

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        """∂y/∂z: where a derivative starts."""
        with torch.enable_grad():
            z = output.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.amount(z).sum(), z)
        return g

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        """The same target, with what it chose by this output's values, to be used on other outputs."""
        return self._with({n: v.held(output) for n, v in self._fields().items() if isinstance(v, Target)})

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: Normalize
    ) -> Float[Tensor, "B *output"]:
        """The relevance that the output starts with.

        Args:
            output: what is explained.
            index: what `index(output)` gave.
            normalize: see `Normalize`.
        """
        return self.value(output) * self.scale(output, normalize).reshape(-1, *[1] * (output.dim() - 1))

    def scale(self, output: Float[Tensor, "B *output"], normalize: Normalize) -> Float[Tensor, " B"]:
        """What `value` and `sinks` are multiplied by: 1/|y|, 1/y or 1, and 1 where y is 0."""
        if normalize is False:  # without a look at the output
            return output.new_ones(()).expand(output.shape[0])
        return _scale(self.amount(output), normalize)

    def started(self, y: Float[Tensor, " B"], normalize: Normalize) -> Float[Tensor, " B"]:
        """How much relevance starts, sinks of the target included, where y is the amount."""
        return y * _scale(y, normalize)

    def change(self, output: Float[Tensor, "B *output"], other: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        """How much of the amount goes where the output becomes another one: `y(z) − y(z')`."""
        return self.amount(output) - self.amount(other)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        """Of an output (B, T, ...): the one position that it speaks of, and the same target in (B, 1, ...).

        Returns:
            None for a target that speaks of more than one.
        """
        return None

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}

    def _with(self, changed: Mapping[str, Target]) -> Target:
        return replace(self, **changed) if changed else self  # type: ignore[type-var]

    def __add__(self, other: Target) -> Target:
        return Sum(((1.0, self), (1.0, other))) if isinstance(other, Target) else NotImplemented

    def __sub__(self, other: Target) -> Target:
        return self + -1 * other if isinstance(other, Target) else NotImplemented

    def __mul__(self, weight: float) -> Target:
        return Sum(((float(weight), self),)) if isinstance(weight, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, by: float) -> Target:
        return self * (1 / by)

    def __neg__(self) -> Target:
        return self * -1.0


@dataclass(frozen=True)
class Sum(Target):
    """`y = Σ_k w_k y_k`: targets that are weighted and added, as in `2 * Logit(1) - Logit(0)`.

    Args:
        terms: weights and targets. Equal targets become one term.
    """

    terms: tuple[tuple[float, Target], ...]

    def __post_init__(self) -> None:
        flat = [
            (w * v, part)
            for w, term in self.terms
            for v, part in (term.terms if isinstance(term, Sum) else ((1.0, term),))
        ]
        weights: dict[Target, float] = {}
        for w, part in flat:
            weights[part] = weights.get(part, 0.0) + w
        object.__setattr__(self, "terms", tuple((w, part) for part, w in weights.items()))

    def parts(self) -> Iterator[Target]:
        return (part for _, part in self.terms)

    def resolved(self, classes: Sequence[str] | None) -> Target:
        return Sum(tuple((w, part.resolved(classes)) for w, part in self.terms))

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        return Sum(tuple((w, part.held(output)) for w, part in self.terms))

    def check(self, batch: int, shape: Shape) -> None:
        super().check(batch, shape)
        if not any(w for w, _ in self.terms) or not all(abs(w) < float("inf") for w, _ in self.terms):
            raise TargetError(f"{self}: the weights cancel or are not finite, so there is nothing to explain.")

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return _added([w * part.value(output) for w, part in self.terms])

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return _added([w * part.amount(output) for w, part in self.terms])

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        kept: dict[str, Tensor] = {}
        for w, part in self.terms:
            for name, share in part.sinks(output).items():
                kept[name] = kept[name] + w * share if name in kept else w * share
        return kept

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return _added([w * part.coefficients(output) for w, part in self.terms])

    def change(self, output: Float[Tensor, "B *output"], other: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return _added([w * part.change(output, other) for w, part in self.terms])

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        places = [part.at_position(shape) for part in self.parts()]
        found = [place for place in places if place is not None]
        if len(found) < len(places) or len({position for position, _ in found}) != 1:
            return None
        return found[0][0], Sum(tuple((w, at) for (w, _), (_, at) in zip(self.terms, found, strict=True)))

    def __str__(self) -> str:
        text = ""
        for w, part in self.terms:
            sign = "-" if w < 0 else "+"
            factor = "" if abs(w) == 1 else f"{abs(w):g} * "
            said = f"({part})" if any(word in str(part) for word in (" - ", " against ")) else str(part)
            text += f"{f' {sign} ' if text else sign.replace('+', '')}{factor}{said}"
        return text


@dataclass(frozen=True)
class Seed:
    """A target, and how much relevance it starts with."""

    target: Target
    normalize: Normalize = "magnitude"

    def __call__(
        self, output: Float[Tensor, "B *output"]
    ) -> tuple[Float[Tensor, "B *output"], Int[Tensor, " B"] | None]:
        """The relevance that the output starts with, and the index of the explained entry."""
        index = self.target.index(output)
        return self.target.seed(widened(output), index, normalize=self.normalize), index

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        """y, the number that is explained."""
        return self.target.amount(widened(output))

    def derivative(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        """∂y/∂z where a derivative starts; times y if it is not normalized."""
        g = self.target.coefficients(output)
        return g if self.normalize else g * self.target.amount(output).reshape(-1, *[1] * (output.dim() - 1))

    def opening(self, output: Float[Tensor, "B *output"]) -> tuple[float, Mapping[str, float]] | None:
        """For the books: the amount, as far as relevance starts with it, and the target's own sinks, over the batch.

        Returns:
            None for a target without sinks, whose amount is the relevance that starts.
        """
        z = widened(output.detach())
        sinks = self.target.sinks(z)
        if not sinks:
            return None
        scale = self.target.scale(z, self.normalize).double()
        kept = {name: float((share * scale).sum()) for name, share in sinks.items()}
        return float((self.target.amount(z) * scale).sum()), kept


def _scale(y: Float[Tensor, " B"], normalize: Normalize) -> Float[Tensor, " B"]:
    if normalize is False:
        return torch.ones_like(y)
    by = y if normalize is True else y.abs()
    return torch.where(y == 0, 1, 1 / torch.where(y == 0, 1, by))


def per_sample(s: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
    """The sum over each sample's entries."""
    return s.reshape(s.shape[0], -1).sum(1)


def widened(output: Tensor) -> Tensor:
    """Half precision as float32, in which relevance travels."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def _added(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])

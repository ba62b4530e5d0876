"""Targets that stand around another one: which output it speaks of, and from which value on it counts."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.output import Entry, TargetLike, entry_of, unresolved
from relprop.targets.target import Normalize, Shape, Target


@dataclass(frozen=True)
class Output(Target):
    """A target in one of the model's several outputs, whichever one the analyzer explains otherwise.

    Args:
        which: name or number of the output.
        target: whatever may be a target.
    """

    which: str | int
    target: TargetLike = None

    def __post_init__(self) -> None:
        if not isinstance(self.which, (str, int)) or isinstance(self.which, bool):
            raise TargetError(f"Output({self.which!r}): give the name or the number of one of the model's outputs.")
        object.__setattr__(self, "target", unresolved(self.target))
        if self._inner.output is not None:
            raise TargetError(f"{self} names two outputs, one inside of the other. Name one.")

    @property
    def output(self) -> str | int:
        """The output."""
        return self.which

    @property
    def knows_index(self) -> bool:  # type: ignore[override]
        """As the target does."""
        return self._inner.knows_index

    @property
    def _inner(self) -> Target:
        return cast(Target, self.target)

    def index(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"] | None:
        return self._inner.index(output)

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self._inner.value(output)

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        return self._inner.sinks(output)

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return self._inner.amount(output)

    def coefficients(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self._inner.coefficients(output)

    def seed(
        self, output: Float[Tensor, "B *output"], index: Int[Tensor, " B"] | None, *, normalize: Normalize
    ) -> Float[Tensor, "B *output"]:
        return self._inner.seed(output, index, normalize=normalize)

    def started(self, y: Float[Tensor, " B"], normalize: Normalize) -> Float[Tensor, " B"]:
        return self._inner.started(y, normalize)

    def change(self, output: Float[Tensor, "B *output"], other: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return self._inner.change(output, other)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        return self._inner.at_position(shape)

    def __str__(self) -> str:
        return f"{self.target} of {self.which!r}"


@dataclass(frozen=True)
class Reference(Target):
    """`y = z_t − r`: why a prediction is not the reference value r (Letzgus et al. 2022, in its simple form).

    `s_t = z_t`, and −r is the sink `"reference"`, as if it were a part of the last bias. Normalized, relevance is
    measured in parts of `z_t − r`; what is positive raises the prediction.

    Args:
        reference: r, a number or (B,).
        target: one entry of each sample's output.
    """

    reference: float | Tensor
    target: TargetLike = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", entry_of(self.target, "Reference"))
        given = self.reference
        if isinstance(given, bool) or not isinstance(given, (Real, Tensor)):
            raise TargetError(f"Reference takes a number or a tensor (B,), got {type(given).__name__}.")

    @property
    def for_one_batch(self) -> bool:
        """A reference for each sample belongs to one batch."""
        return super().for_one_batch or (isinstance(self.reference, Tensor) and self.reference.dim() > 0)

    def check(self, batch: int, shape: Shape) -> None:
        super().check(batch, shape)
        r = torch.as_tensor(self.reference)
        if tuple(r.shape) not in ((), (batch,)) or not r.isfinite().all():
            raise TargetError(f"a reference is one finite number, or one for each of {batch} samples; got {r}.")

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        return self._entry.value(output)

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        return {"reference": -self._of(output)}

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        return self._entry.amount(output) - self._of(output)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        found = self._entry.at_position(shape)
        return None if found is None else (found[0], Reference(self.reference, found[1]))

    def _of(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        if isinstance(self.reference, Tensor):
            return self.reference.to(device=output.device, dtype=output.dtype).expand(output.shape[0])
        return output.new_full((), float(self.reference)).expand(output.shape[0])

    @property
    def _entry(self) -> Entry:
        return cast(Entry, self.target)

    def __str__(self) -> str:
        r = self.reference.tolist() if isinstance(self.reference, Tensor) else self.reference
        return f"{self.target} from {r} on"

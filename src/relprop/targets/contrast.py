"""Which of two, and against all others: differences of outputs, and log-odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relprop.errors import TargetError
from relprop.targets.output import Entry, Given, TargetLike, entry_of
from relprop.targets.rows import OfRow, entropy, log_sum
from relprop.targets.target import Shape, Target


@dataclass(frozen=True)
class Difference(Target):
    """`y = z_a − z_b`, with `s_a = z_a` and `s_b = −z_b`.

    Args:
        a: one entry of each sample's output: whatever may be a target and is one.
        b: another one.
    """

    a: TargetLike
    b: TargetLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", entry_of(self.a, "Difference"))
        object.__setattr__(self, "b", entry_of(self.b, "Difference"))

    def check(self, batch: int, shape: Shape) -> None:
        super().check(batch, shape)
        check_apart(self._ends[0], self._ends[1], batch, shape)

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        a, b = self._ends
        refuse_same(a.index(output), b.index(output))
        return a.value(output) - b.value(output)

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        a, b = self._ends
        return a.amount(output) - b.amount(output)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        a, b = (end.at_position(shape) for end in self._ends)
        if a is None or b is None or a[0] != b[0]:
            return None
        return a[0], Difference(a[1], b[1])

    @property
    def _ends(self) -> tuple[Entry, Entry]:
        return cast(Entry, self.a), cast(Entry, self.b)

    def __str__(self) -> str:
        return f"{self.a} - {self.b}"


@dataclass(frozen=True)
class Contrast(OfRow):
    """`y = z_t − z_b`: why this class and not another one.

    `"rest"` stands for the mean of all others, `z_b = Σ_{n≠t} z_n / (K − 1)`, and `"runner-up"` for the largest of
    them, `z_b = max_{n≠t} z_n`. `s = z` at the target, and less the share of each at the others.

    Args:
        target: one entry of each sample's output.
        against: another entry, `"rest"` or `"runner-up"`.
        dim: of the classes, for `"rest"` and `"runner-up"`: the last, or 1 of maps (B, classes, H, W).
    """

    target: TargetLike
    against: TargetLike | Literal["rest", "runner-up"] = "runner-up"
    dim: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.against, str) and self.against in ("rest", "runner-up")):
            object.__setattr__(self, "against", entry_of(self.against, "Contrast"))

    def check(self, batch: int, shape: Shape) -> None:
        if isinstance(self.against, Entry):
            Target.check(self, batch, shape)
            check_apart(self.chosen, self.against, batch, shape)
        else:
            super().check(batch, shape)

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        if isinstance(self.against, Entry):
            return Difference(self.chosen, self.against).value(output)
        row = self.row(output)
        if self.against == "rest":
            return row.shares(torch.full_like(row.z, -1 / (row.z.shape[1] - 1)).masked_fill(row.entry, 1))
        return self.chosen.value(output) - Given(self._runner_up(output)).value(output)

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        if isinstance(self.against, Entry):
            return Difference(self.chosen, self.against).amount(output)
        row = self.row(output)
        if self.against == "rest":
            return row.target - (row.z.sum(1) - row.target) / (row.z.shape[1] - 1)
        return row.target - row.others.amax(1)

    def held(self, output: Float[Tensor, "B *output"]) -> Target:
        if self.against == "runner-up":
            return Difference(self.chosen.held(output), Given(self._runner_up(output)))
        return super().held(output)

    def at_position(self, shape: Shape) -> tuple[int, Target] | None:
        if isinstance(self.against, Entry):
            return Difference(self.chosen, self.against).at_position(shape)
        return super().at_position(shape)

    def _runner_up(self, output: Float[Tensor, "B *output"]) -> Int[Tensor, " B"]:
        row = self.row(output)
        return row.places.gather(1, row.others.argmax(1, keepdim=True)).squeeze(1)

    def __str__(self) -> str:
        return f"{self.target} against {f'the {self.against}' if isinstance(self.against, str) else self.against}"


@dataclass(frozen=True)
class LogOdds(OfRow):
    """`y = log p_t / (1 − p_t) = z_t − log Σ_{n≠t} exp z_n` (Montavon et al. 2019).

    `s_t = z_t` and `s_n = −π_n z_n`, with the softmax π over the other classes. `Σ s = y + H(π)`, so the entropy of the
    others is a sink, `"entropy"`, of −H(π).

    Args:
        target: one entry of each sample's output.
        dim: of the classes: the last, or 1 of maps (B, classes, H, W).
    """

    target: TargetLike = None
    dim: int = -1

    def value(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, "B *output"]:
        row = self.row(output)
        return row.shares(torch.where(row.entry, 1, -row.others.softmax(1)))

    def amount(self, output: Float[Tensor, "B *output"]) -> Float[Tensor, " B"]:
        row = self.row(output)
        return row.target - log_sum(row.others)

    def sinks(self, output: Float[Tensor, "B *output"]) -> dict[str, Float[Tensor, " B"]]:
        return {"entropy": -entropy(self.row(output).others)}

    def __str__(self) -> str:
        return f"the log-odds of {self.target}"


def check_apart(a: Entry, b: Entry, batch: int, shape: Shape) -> None:
    """Refuse two entries that are the same one, as far as that is known before there is an output.

    Raises:
        TargetError: they are.
    """
    if a == b:
        raise TargetError(f"{a} is to be compared with itself. Give two different outputs.")
    if a.knows_index and b.knows_index and all(size is not None for size in shape):
        blank = torch.zeros(()).expand(batch, *(int(size) for size in shape if size is not None))
        i, j = a.index(blank), b.index(blank)
        assert i is not None
        assert j is not None
        refuse_same(i, j)


def refuse_same(i: Int[Tensor, " B"] | None, j: Int[Tensor, " B"] | None) -> None:
    """Refuse entries of which some are the same; in a program that is being traced there are no values to look at.

    Raises:
        TargetError: it names the samples.
    """
    if type(i) is not Tensor or type(j) is not Tensor or not bool((i == j.to(i.device)).any()):
        return
    samples = (i == j.to(i.device)).nonzero().flatten().tolist()
    raise TargetError(
        f"In sample {', '.join(map(str, samples))} output {int(i[samples[0]])} is to be compared with itself. "
        "Give two different outputs."
    )

"""What becomes of the relevance that comes to a node: conditions (Achtibat et al. 2023)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.ops.tape import Message, Tape


@dataclass(frozen=True)
class Arrived:
    """All the relevance of a node.

    Attributes:
        node: where it came to.
        message: what came.
        tape: the node's value.
    """

    node: Node
    message: Message
    tape: Tape

    @cached_property
    def relevance(self) -> Tensor:
        """`R = a · c + R_rest`, (B, ...)."""
        return self.tape.total(self.node, self.message)

    @property
    def like(self) -> Tensor:
        """Some tensor of the relevance's shape and dtype."""
        part = self.message.R if self.message.c is None else self.message.c
        assert part is not None, f"an empty message at {self.node}"
        return part

    @property
    def value(self) -> Tensor:
        """`a`, (B, ...)."""
        return self.tape.value(self.node)

    @cached_property
    def coefficient(self) -> Tensor:
        """`c` of `R = a · c`, (B, ...). What came as a number is divided by `a`; where `a = 0`, it has none."""
        c, rest = self.message.c, self.message.R
        if rest is None:
            assert c is not None, f"an empty message at {self.node}"
            return c
        off = self.value == 0
        divided = torch.where(off, 0, rest / torch.where(off, 1, self.value))
        return divided if c is None else c + divided


class Condition(ABC):
    """What of a node's relevance goes on. What does not, is the sink `condition`.

    Attributes:
        reads_value: it looks at the node's value, or at relevance as one number per entry.
    """

    reads_value: ClassVar[bool] = False

    @abstractmethod
    def passed(self, arrived: Arrived) -> Message | None:
        """What goes on; None for nothing."""


@dataclass(frozen=True)
class Stop(Condition):
    """Nothing goes on."""

    def passed(self, arrived: Arrived) -> Message | None:
        return None


@dataclass(frozen=True)
class Entrywise(Condition):
    """A function of relevance (B, ...), linear and of each entry by itself, so that both parts may go by it."""

    function: Callable[[Tensor], Tensor]

    def passed(self, arrived: Arrived) -> Message | None:
        return arrived.message.map(self.function)


@dataclass(frozen=True, eq=False)
class Mask(Condition):
    """A part of relevance goes on, `R -> mask · R`.

    Attributes:
        mask: numbers or booleans that broadcast to the node's value (B, ...).
    """

    mask: Tensor

    def passed(self, arrived: Arrived) -> Message | None:
        return arrived.message.map(lambda part: part * self.mask.to(device=part.device, dtype=part.dtype))


@dataclass(frozen=True)
class Choice(Condition):
    """A condition that depends on what arrives.

    Attributes:
        choose: what arrives -> condition.
    """

    choose: Callable[[Arrived], Condition]
    reads_value: ClassVar[bool] = True

    def passed(self, arrived: Arrived) -> Message | None:
        return self.choose(arrived).passed(arrived)


@dataclass(frozen=True)
class Projection(Condition):
    """Coefficients are mapped linearly, `c -> P c`, and `R = a · P c` goes on: relevance of directions in activations.

    Attributes:
        function: what arrives -> `P c` of its coefficient, (B, ...).
    """

    function: Callable[[Arrived], Tensor]
    reads_value: ClassVar[bool] = True

    def passed(self, arrived: Arrived) -> Message | None:
        projected = self.function(arrived)
        if arrived.message.R is None:
            return Message(c=projected)
        return Message(R=arrived.value * projected)  # readers may take only the parts that they were bound to

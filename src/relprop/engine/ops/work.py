"""What saves memory in a pull through an affine layer: what is made once, what is let go of, what is written over.

Large allocations cost time as well as memory, so a sum or a quotient goes into memory that nobody else reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node
from relprop.engine.ops.tape import Tape
from relprop.rules import Group, Term
from relprop.rules.modifiers import Modifier, keep

Way = tuple[Modifier, Modifier]
"""Input and weight of a term: `s` of terms that share both goes back together."""


@dataclass(frozen=True)
class Sum:
    """`z = Σ_k A_k a_k + b_k`, shaped like the output, and the bias in it, which broadcasts to it.

    Attributes:
        fresh: nobody else reads the memory of `z`.
    """

    z: Tensor
    bias: Tensor | None
    fresh: bool

    def __mul__(self, coefficient: float) -> Sum:
        if coefficient == 1:
            return self
        return Sum(self.z * coefficient, None if self.bias is None else self.bias * coefficient, fresh=True)


class Work:
    """What one pull through a layer makes.

    Args:
        terms: those that it will evaluate and send `s` back through, in order.
    """

    def __init__(self, tape: Tape, terms: Iterable[Term]) -> None:
        self.tape = tape
        self._inputs: dict[tuple[Node, Modifier], Tensor] = {}
        self._repeated: dict[Hashable, Sum] = {}
        self._sums: dict[Group, Sum] = {}
        self._waiting: dict[Way, Tensor] = {}
        self._expected = Counter((t.input, t.weight) for t in terms)

    # Made once.

    def input(self, x: Node, modifier: Modifier, fewest: Callable[[Tensor], Tensor]) -> Tensor:
        """A modified input. `fewest` are the samples that it has to be computed for."""
        if modifier is keep:
            return self.tape.value(x)
        key = x, modifier
        if key not in self._inputs:
            self._inputs[key] = modifier(fewest(self.tape.value(x)))
        return self._inputs[key]

    def repeated(self, key: Hashable, make: Callable[[], Sum]) -> Sum:
        """What several terms make alike."""
        if key not in self._repeated:
            self._repeated[key] = replace(make(), fresh=False)
        return self._repeated[key]

    def lay_by(self, group: Group, made: Sum) -> Sum:
        """Keep a sum until `fetch`."""
        self._sums[group] = made
        return made

    def fetch(self, group: Group) -> Sum | None:
        """A sum that was made in advance, and let go of."""
        return self._sums.pop(group, None)

    # Let go of.

    def together(self, term: Term, s: Tensor) -> Tensor | None:
        """Σ s of all terms that go the same way back, if `term` is the last of them; None: more are to come."""
        way = term.input, term.weight
        s = s if term.coefficient == 1 else s * term.coefficient
        s = self._waiting.pop(way) + s if way in self._waiting else s
        self._expected[way] -= 1
        if not self._expected[way]:
            return s
        self._waiting[way] = s
        return None

    # Written over.

    def add(self, total: Sum | None, part: Sum) -> Sum:
        """`total + part`, written over whichever is fresh."""
        if total is None:
            return part
        biases = [b for b in (total.bias, part.bias) if b is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        if self.overwrites(total) and _holds(total.z, part.z):
            return Sum(total.z.add_(part.z), bias, fresh=True)
        return Sum(total.z + part.z, bias, fresh=True)

    def overwrites(self, made: Sum) -> bool:
        """What comes of a sum may take the place of it."""
        return made.fresh and self.tape.may_overwrite

    def quotient(self, relevance: Tensor, denominator: Tensor, coefficient: float, *, overwrite: bool) -> Tensor:
        """`coefficient · relevance / denominator`."""
        same = denominator.shape == relevance.shape and denominator.dtype == relevance.dtype
        s = torch.div(relevance, denominator, out=denominator) if overwrite and same else relevance / denominator
        if coefficient == 1:
            return s
        return s.mul_(coefficient) if self.tape.may_overwrite else s * coefficient

    def add_product(self, total: Tensor, a: Tensor, c: Tensor) -> Tensor:
        """`total + a · c`, where `total` is fresh."""
        return total.addcmul_(a, c) if self.tape.may_overwrite else total.addcmul(a, c)


def _holds(total: Tensor, part: Tensor) -> bool:
    """`part` broadcasts to `total`. It need not: what is the same for all samples is made for one of them."""
    return total.dim() == part.dim() and all(n in (1, m) for m, n in zip(total.shape, part.shape, strict=True))

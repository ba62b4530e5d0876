"""Values within a larger one: which of its dimensions each of their own is.

A sum that was kept as (B, T, 1) and one that was unsqueezed later are the same value, and both differ from one along
another dimension of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relprop.engine.graph.graph import Node
from relprop.engine.rewrites.rewriting import positional, rank_of, sizes_of
from relprop.engine.rewrites.sums_of_exponentials import alike, is_a, unsqueezed
from relprop.engine.rewrites.written_out import Writer, aten

AXIS = -1
"""The dimension that a sum runs over, which the sum has no longer."""
NOWHERE = -2
"""A dimension of size 1 that the larger value does not have."""


@dataclass(frozen=True)
class Placed:
    """A node, and for each of its dimensions which one of a larger value it is."""

    node: Node
    where: tuple[int, ...]

    @property
    def core(self) -> Placed:
        """What it was before dimensions of size 1 were put in or dropped, it was expanded, or 0 was added."""
        node, where = self.node, self.where
        while True:
            inner = unsqueezed(node)
            if inner is not None:
                d = positional(node)[1] % rank_of(node)
                where = where[:d] + where[d + 1 :]
            elif is_a(node, "squeeze") and len(node.args) == 2 and isinstance(positional(node)[1], int):
                inner = positional(node)[0]
                d = positional(node)[1] % rank_of(inner)
                if rank_of(inner) > rank_of(node):
                    where = (*where[:d], NOWHERE, *where[d:])
            elif is_a(node, "expand", "expand_as", "alias", "clone", "contiguous", "detach"):
                inner = positional(node)[0]
                where = where[len(where) - rank_of(inner) :]
            elif is_a(node, "add") and not node.kwargs and 0 in positional(node)[:2]:  # where Python's sum begins
                inner = next(a for a in positional(node)[:2] if isinstance(a, Node))
            else:
                return Placed(node, where)
            node = inner

    @property
    def spread(self) -> tuple[int, ...]:
        """The dimensions along which it differs."""
        return tuple(w for w, size in zip(self.where, sizes_of(self.node), strict=True) if size != "1")

    def operand(self, node: Node) -> Placed:
        """One of what the node is computed of entry by entry: it ends where the node ends."""
        return Placed(node, self.where[len(self.where) - rank_of(node) :])

    def equals(self, other: Placed) -> bool:
        """Whether both are one value along the same dimensions."""
        a, b = self.core, other.core
        return a.spread == b.spread and alike(a.node, b.node)

    def laid_out(self, write: Writer, layout: Sequence[int]) -> Node | None:
        """The value with the dimensions of a layout, in their order; None where it has others."""
        core = self.core
        spread = core.spread
        if len(set(spread)) < len(spread) or [w for w in layout if w in spread] != list(spread):
            return None
        ones = [d for d, size in enumerate(sizes_of(core.node)) if size == "1"]
        value = write(aten.squeeze.dims, core.node, ones) if ones else core.node
        for d, w in enumerate(layout):
            value = value if w in spread else write(aten.unsqueeze.default, value, d)
        return value

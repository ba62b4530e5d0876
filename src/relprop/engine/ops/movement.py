"""Movement: operators that only place values elsewhere. Relevance moves back by their adjoint, exactly conserving.

Both parts of a message move alike, since each value arrives unchanged. What lands on an entry that no data was moved
to (padding with a constant, a filled mask) is kept by the sink `constant`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, operator_name
from relprop.engine.ops.registry import LIKE_ANOTHER, inherits, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import Message, Tape
from relprop.rules import AffineRule, PassRule, Rule

RESHAPES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "detach_",
        "to",
        "_to_copy",
        "type_as",
        "lift_fresh_copy",
        "lift_fresh",
        "view_as",
        "reshape_as",
        "positive",
        "resolve_conj",
    ]
)
"""Operators that keep the order of the entries."""

FILLS = frozenset(
    [
        "pad",
        "constant_pad_nd",
        "masked_fill",
        "where",
        "slice_scatter",
        "select_scatter",
        "index_put",
        "scatter",
        "masked_scatter",
        "index_copy",
        "index_fill",
        "diagonal_scatter",
        "diag_embed",
        "tril",
        "triu",
    ]
)
"""Operators whose result may hold entries that come from no data input."""

_OTHERS = [
    "permute",
    "transpose",
    "t",
    "numpy_T",
    "mT",
    "swapaxes",
    "swapdims",
    "movedim",
    "moveaxis",
    "slice",
    "select",
    "narrow",
    "at",
    "diagonal",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_chunk",
    "chunk",
    "unbind",
    "tensor_split",
    "cat",
    "concat",
    "concatenate",
    "stack",
    "hstack",
    "vstack",
    "expand",
    "expand_as",
    "repeat",
    "repeat_interleave",
    "tile",
    "index",
    "index_select",
    "gather",
    "take_along_dim",
    "roll",
    "unfold",
    "im2col",
    "flip",
    "rot90",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "masked_select",
    "broadcast_to",
    "atleast_1d",
]

BY_VALUE = frozenset(["topk", "sort"])
"""Operators that place values by what they are."""

register([*RESHAPES, *BY_VALUE, *_OTHERS], "movement", nonneg=inherits)
register(FILLS, "movement")


class MovementStep(Step):
    """Send each entry's relevance to where the entry came from."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        if operator_name(node) in LIKE_ANOTHER:
            self.sources = tuple(s for s in self.sources if s is node.args[0])
        self.by_value = operator_name(node) in BY_VALUE
        self.read(*(self.sources if self.by_value else ()))

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (AffineRule, PassRule)):
            raise cannot_serve(node, rule, "relevance moves with the values; use PassRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if operator_name(self.node) in RESHAPES:
            shape = tape.shapes[self.sources[0]]
            return [(self.sources[0], message.map(lambda part: part.reshape(shape)))]
        if operator_name(self.node) == "expand_as":  # its second argument lends its shape, and may be gone by now
            shape = tape.shapes[self.sources[0]]
            return [(self.sources[0], message.map(lambda part: part.sum_to_size(shape)))]
        if operator_name(self.node) in FILLS or self._constants(tape):
            tape.sink(self.node, "constant", lambda: self._on_constants(message, tape))
        return zip(self.sources, tape.adjoint(self.node, self.sources, message, linear=not self.by_value), strict=True)

    def _constants(self, tape: Tape) -> list[Node]:
        return [n for n in self.node.all_input_nodes if n not in self.sources and _is_floating(tape.values.get(n))]

    def _on_constants(self, message: Message, tape: Tape) -> Tensor:
        """Relevance of the entries that were moved here from no data input."""
        emptied = {n: torch.zeros_like(tape.values[n], dtype=tape.dtype) for n in self._constants(tape)}
        zeros = {s: tape.blank(s) for s in self.sources}
        ones = {s: torch.ones_like(zero) for s, zero in zeros.items()}
        moved: Tensor = tape.evaluate(self.node, ones | emptied) - tape.evaluate(self.node, zeros | emptied)
        return tape.total(self.node, message) * (1 - moved.nan_to_num(nan=0.0))  # −inf − (−inf) where that was put


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()

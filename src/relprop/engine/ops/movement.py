"""Movement: operators that only place values elsewhere. Relevance moves back by their adjoint, exactly conserving.

Both parts of a message move alike, since each value arrives unchanged. What lands on an entry that no data was moved
to (padding with a constant, a filled mask) is kept by the sink `constant`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from relprop.engine.graph.graph import Node, fake_value
from relprop.engine.ops.moved_back import Back, moved_back
from relprop.engine.ops.parameters import credit_moved
from relprop.engine.ops.registry import everywhere, inherits, op_of, register
from relprop.engine.ops.step import Plan, Preference, Step, cannot_serve
from relprop.engine.ops.tape import Message, Tape
from relprop.rules import AffineRule, PassRule, Rule


def _elsewhere(node: Node, dim: int) -> bool:
    """A slice of another dimension."""
    return int(node.args[1]) % len(fake_value(node).shape) != dim  # type: ignore[arg-type]


_reshaped: dict[str, Any] = {
    "nonneg": inherits, "infinite": "inherits", "gate": None, "reshapes": True, "same_ids": True,
}  # fmt: skip
_R = ("ReshapingLayer",)

# They keep the order of the entries.
register("view reshape flatten unflatten squeeze unsqueeze", "movement", layers=_R, **_reshaped)
register("contiguous clone", "movement", local=everywhere, layers=_R, **_reshaped)
register("alias to _to_copy", "movement", local=everywhere, **_reshaped)
register("_unsafe_view detach detach_ lift_fresh_copy lift_fresh positive resolve_conj", "movement", **_reshaped)
register("type_as view_as reshape_as", "movement", like_another=True, **_reshaped)

# They place entries elsewhere, leave some out, or repeat them.
_moved: dict[str, Any] = {"nonneg": inherits, "infinite": "inherits", "gate": None}
register("permute transpose pixel_shuffle", "movement", layers=_R, **_moved)
register("slice", "movement", local=_elsewhere, **_moved)
register("expand_as", "movement", like_another=True, **_moved)
register(
    "t numpy_T mT swapaxes swapdims movedim moveaxis select narrow at diagonal split split_with_sizes unsafe_split "
    "unsafe_chunk chunk unbind tensor_split expand repeat repeat_interleave tile index index_select gather "
    "take_along_dim roll unfold im2col flip rot90 pixel_unshuffle channel_shuffle reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d masked_select broadcast_to atleast_1d "
    "atleast_2d atleast_3d adjoint mH fliplr flipud ravel take fft_fftshift fft_ifftshift linalg_diagonal "
    "matrix_H unsafe_split_with_sizes native_channel_shuffle _unsafe_index hsplit vsplit dsplit "
    "broadcast_tensors meshgrid strided",
    "movement",
    **_moved,
)
register("cat concat concatenate stack hstack vstack dstack column_stack row_stack", "movement", nonneg=inherits,
         infinite="inherits")  # fmt: skip
register("topk sort msort median nanmedian kthvalue mode", "movement", nonneg=inherits, infinite="inherits",
         by_value=True)  # fmt: skip

# Beside what they move, they put numbers: of the model's choice, or zeros and what another tensor holds.
register("pad", "movement", fills=True, infinite="makes", layers=_R)
register("pad_sequence complex_moved", "movement", fills=True, infinite="makes")
register("constant_pad_nd masked_fill where index_fill masked_scatter scatter index_put", "movement", fills=True,
         infinite="makes")  # fmt: skip
register("slice_scatter select_scatter index_copy diagonal_scatter diag_embed tril triu max_unpool2d "
         "max_unpool3d diag diagflat block_diag", "movement", fills=True,
         infinite="inherits")  # fmt: skip


class MovementStep(Step):
    """Send each entry's relevance to where the entry came from."""

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        super().__init__(node, rule, plan)
        self.op = op_of(node)
        if self.op.like_another:
            self.sources = tuple(s for s in self.sources if s is node.args[0])
        self.read(*(self.sources if self.op.by_value else ()))
        self.back = moved_back(node)

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        if not isinstance(rule, (AffineRule, PassRule)):
            raise cannot_serve(node, rule, "relevance moves with the values; use PassRule().")

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        if self.op.reshapes:
            shape = tape.shapes[self.sources[0]]
            return [(self.sources[0], message.map(lambda part: part.reshape(shape)))]
        if self.op.like_another:  # its second argument lends its shape, and may be gone by now
            shape = tape.shapes[self.sources[0]]
            return [(self.sources[0], message.map(lambda part: part.sum_to_size(shape)))]
        if self.back is not None:
            return list(self._back(self.back, message, tape))
        if self.op.fills or self._constants(tape):
            tape.sink(self.node, "constant", lambda: self._on_constants(message, tape))
        if tape.parameters is not None:
            for constant in self._constants(tape):
                credit_moved(tape, self.node, constant, message)
        linear = not self.op.by_value
        shares = zip(self.sources, tape.adjoint(self.node, self.sources, message, linear=linear), strict=True)
        return [(source, share) for source, share in shares if not share.empty]  # one result may leave inputs out

    def _back(self, back: Back, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        message = message.map(lambda part: part.to(tape.dtype))  # as autograd does: tables may be of another one
        if message.c is not None:
            for source, c in back(self.node, tape, message.c):
                yield source, Message(c)
        if message.R is not None:
            for source, part in back(self.node, tape, message.R):
                yield source, Message(R=part)

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

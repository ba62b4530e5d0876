"""Adjoints of movements, written out, against autograd's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, EpsilonPlus
from relprop.engine.graph.graph import Node
from relprop.engine.ops.tape import Message, Tape
from relprop.rules import EpsilonRule

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.transpose(1, 2),
    "transpose, negative": lambda x: x.transpose(-1, 1),
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "permute, negative": lambda x: x.permute(0, -1, 1, -2),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1),
    "expand a one": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand by its own size": lambda x: x[:, :1].expand(x.shape[0], 3, x.shape[2], -1),
    "slice": lambda x: x[:, 1:],
    "slice, steps": lambda x: x[:, :, ::2],
    "one position": lambda x: x[:, -1:],
    "slice, negative": lambda x: x[..., -3:-1],
    "slice, beyond": lambda x: x[..., 2:100],
    "cat": lambda x: torch.cat([x, 2 * x, x], 1),
    "cat, negative": lambda x: torch.cat([-x[..., 2:], x[..., :2]], -1),
    "cat, nothing": lambda x: torch.cat([x.flatten()[:0], x], 2),
    "cat of sizes": lambda x: torch.cat([x[:, :1], x[:, 1:].relu()], 1),
}


class Moved(nn.Module):
    """Something is moved between two layers."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move = move
        self.inner, self.head = nn.Linear(5, 5), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.move(self.inner(x).tanh()).flatten(1))


def moved(name: str) -> tuple[Moved, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    model = Moved(MOVES[name]).double()
    model(x)
    return model.eval(), x


@pytest.mark.parametrize("name", MOVES)
def test_written_out_is_autograds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ε = 0 relevance is input times gradient, of the tanh by its own rule; no autograd is asked."""

    def refused(self: Tape, node: Node, sources: Sequence[Node], message: Message, *, linear: bool) -> list[Message]:
        raise AssertionError(f"{node} asked autograd")

    monkeypatch.setattr(Tape, "adjoint", refused)
    model, x = moved(name)
    relevance = LRP(model, Composite(EpsilonRule(1e-12)), normalize_output=False)(x, target=1).relevance
    h = model.inner(x)
    slope = (h.tanh() / h).detach()  # what goes into a tanh is what leaves it
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(model.move(model.inner(leaf) * slope).flatten(1))[:, 1].sum(), leaf)
    assert_close(relevance, x * gradient, rtol=1e-7)


@pytest.mark.parametrize("name", MOVES)
def test_both_parts_of_a_message_move(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = moved(name)
    composite = EpsilonPlus(bias="distribute")
    written_out = LRP(model, composite)(x, target=1)
    several = list(LRP(model, composite).each(x, targets=[0, 1]))
    monkeypatch.setattr("relprop.engine.ops.movement.moved_back", lambda node: None)
    model, x = moved(name)
    assert_close(written_out.relevance, LRP(model, composite)(x, target=1).relevance, rtol=1e-10)
    assert_close(several[1].relevance, written_out.relevance, rtol=1e-10)

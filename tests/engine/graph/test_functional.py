"""Writing in place, as the graph has it: assignments to slices are moves of data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.versions import export_refuses
from torch import Tensor, nn

from relprop import LRP


def test_assignments_to_slices_are_moves() -> None:
    """A buffer filled part by part, as DeepSeek makes its keys, is a concatenation."""

    class Filled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            buffer = x.new_empty(x.shape[0], 4)
            buffer[:, :3] = x
            buffer[:, 3:] = y.mean(1, keepdim=True)
            return buffer

    class Joined(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x, y.mean(1, keepdim=True)], 1)

    x, y = torch.rand(2, 3), torch.rand(2, 2)
    lrp = LRP(Filled())
    for target in (1, 3):
        for part, expected in zip(
            lrp(x, y, target=target).relevance, LRP(Joined())(x, y, target=target).relevance, strict=True
        ):
            assert torch.equal(part, expected)
        ledger = lrp(x, y, target=target, audit=True).ledger
        assert ledger is not None
        assert ledger.imbalance <= 1e-6


@pytest.mark.parametrize("make", [Tensor.new_empty, lambda x, *size: torch.empty(size), torch.empty_like])
def test_memory_that_was_never_written_is_in_no_book(
    make: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN stands for what may lie in memory. PyTorch fills fresh memory with it where it must be deterministic."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            buffer = make(x) if make is torch.empty_like else make(x, 2, 2)
            buffer[:, :1] = x[:, :1] * 2
            buffer[:, 1:] = x[:, 1:]
            return buffer * torch.tensor([1.0, 3.0])

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        expl = LRP(Half())(torch.ones(2, 2), target=0, audit=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-6
    assert torch.equal(expl.relevance, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    "view",
    [
        torch.atleast_2d,
        lambda a: torch.alpha_dropout(a, 0.5, False),
        lambda a: torch.dropout(a, 0.5, False),
        lambda a: a.reshape(-1, 3),
        pytest.param(lambda a: a.to(a.dtype).contiguous(), marks=export_refuses),
        lambda a: a.chunk(1, 0)[0],
    ],
    ids=["atleast_2d", "alpha_dropout", "dropout", "reshape", "to", "chunk"],
)
def test_what_may_be_its_input_writes_to_it(view: Callable[[Tensor], Tensor]) -> None:
    """Operators that return their input, or a view of it, without saying so in their schema."""

    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = x * 1.0
            view(a).relu_()
            return a.sum(1, keepdim=True)

    model, x = Written(), torch.tensor([[1.0, -2.0, 3.0], [-1.0, 1.0, 2.0]])
    assert torch.equal(model(x), torch.tensor([[4.0], [3.0]]))
    expl = LRP(model)(x, target=0)
    assert torch.equal(expl.output, model(x))
    assert torch.allclose(expl.relevance, x.relu() / model(x), atol=1e-5)


class Spelled(nn.Module):
    """A ReLU network that writes into its hidden features."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.write = nn.Linear(4, 6), nn.Linear(6, 3), write

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.write(F.relu(self.first(x)).clone()))


def zeroed(h: Tensor) -> Tensor:
    h[:, 0] = 0
    h[:, 2:4] = 0.5
    h[:, 5].zero_()
    h[:, 4] = h[:, 1]
    return h


def filled(h: Tensor) -> Tensor:
    h[:, ::2].fill_(torch.tensor(2.0))
    return h


def divided(h: Tensor) -> Tensor:
    h /= 2
    h.sub_(1, alpha=3)
    return h.clamp_(min=0)


def dropped_in_place(h: Tensor) -> Tensor:
    h = F.dropout(h, 0.5, training=False, inplace=True)
    h[:, 1] = 0
    return h


PIECEWISE_LINEAR = [zeroed, filled, divided, dropped_in_place]


@pytest.mark.parametrize("write", PIECEWISE_LINEAR)
def test_writes_into_hidden_features(write: Callable[[Tensor], Tensor]) -> None:
    model, x = Spelled(write).eval(), torch.randn(3, 4)
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(a)[:, 1].sum(), a)
    expl = LRP(model, normalize_output=False)(x, target=1)
    torch.testing.assert_close(expl.output, model(x))
    torch.testing.assert_close(expl.relevance, x * gradient)


@pytest.mark.parametrize("name", ["pow_", "__ipow__"])
@pytest.mark.parametrize("exponent", [2, 3.0])
def test_powers_in_place(name: str, exponent: float) -> None:
    x = torch.randn(3, 4)
    plain = LRP(Spelled(lambda h: h**exponent))(x, target=1)
    written = LRP(Spelled(lambda h: getattr(h, name)(exponent)))(x, target=1)
    assert torch.equal(plain.output, written.output)
    assert torch.equal(plain.relevance, written.relevance)


class Flattened(nn.Module):
    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.write = nn.Conv2d(3, 4, 3), nn.Linear(64, 3), write

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.write(F.relu(self.conv(x))))


@pytest.mark.parametrize(
    "view",
    [
        lambda h: h.view(len(h), -1),
        lambda h: h.view(h.size(0), 4, -1).view(-1, 64),
        lambda h: h.view_as(h).reshape(-1, 8, 8).view(h.shape[0], 64),
    ],
)
def test_views_behind_convolutions(view: Callable[[Tensor], Tensor]) -> None:
    """On a CPU convolutions run channels-last, where such a view does not exist."""
    x = torch.randn(2, 3, 6, 6)
    seen, right = (LRP(Flattened(f))(x, target=1).relevance for f in (view, lambda h: h.flatten(1)))
    torch.testing.assert_close(seen, right)


def twice_over(h: Tensor) -> Tensor:
    h[:, 1:, 2:] = h[:, 1:, 2:] * 2 + h[:, :1, :2].sum(2, keepdim=True)
    h[:, 0] += h[:, 2]
    h[:, 1, ::2].mul_(3)
    return h


def after_a_write_to_all(h: Tensor) -> Tensor:
    h.mul_(2)
    h[:, :, 0] = 0
    h[:, :, 1] = h[:, :, 2]
    return h.relu_()


def read_before(h: Tensor) -> Tensor:
    first = h[:, 0].clone()
    h[:, 0] = h[:, 1]
    return h + first[:, None]


SLICES = [twice_over, after_a_write_to_all, read_before]


def input_times_gradient(write: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(4, 4), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(write(self.first(x).relu() + 0.0).flatten(1))

    model = Model().double().eval()
    a = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    return model, a.detach(), a.detach() * torch.autograd.grad(model(a)[:, 1].sum(), a)[0]


@pytest.mark.parametrize("write", SLICES)
def test_writes_to_slices_take_no_second_pass(
    write: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch functionalized the program, which takes as long as its export")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", never)
    model, x, expected = input_times_gradient(write)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.output, model(x).detach())
    assert_close(expl.relevance, expected, rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9


def view_read_later(h: Tensor) -> Tensor:
    part = h[:, 0]
    h[:, 0] = h[:, 1] * 2
    return h + part[:, None]


def stale_slice(h: Tensor) -> Tensor:
    part = h[:, :, 1:]
    h[:, 0] = 3 * h[:, 2]
    part[:, 1] += part[:, 0]
    return h


def another_view(h: Tensor) -> Tensor:
    h.transpose(1, 2)[:, 0] = h[:, :, 1]
    return h


@pytest.mark.parametrize("write", [view_read_later, stale_slice, another_view])
def test_writes_that_others_see(write: Callable[[Tensor], Tensor]) -> None:
    model, x, expected = input_times_gradient(write)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.output, model(x).detach())
    assert_close(expl.relevance, expected, rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9

"""The program is that of the call: models that lose their batch, or do something else for a size of 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop import LRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.run import evaluate


def seeded(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


class Bag(nn.Module):
    """Max pooling over the instances of one bag, which comes as (1, N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x.squeeze())).amax(0, keepdim=True))


class Otherwise(nn.Module):
    """Another layer where one dimension has size 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.embed = dim, nn.Embedding(7, 4)
        self.one, self.more = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        layer = self.one if ids.shape[self.dim] == 1 else self.more
        return layer(self.embed(ids)).sum(1)


class Normalized(nn.Module):
    """Statistics of the batch, which one sample has none of."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 1 else x * 3


def input_times_gradient(model: nn.Module, x: Tensor, target: int) -> Tensor:
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(a)[:, target].sum(), a)
    return x * gradient


def test_a_bag_is_no_batch() -> None:
    model, x = seeded(Bag()), torch.randn(1, 5, 4)
    relevance = LRP(model, normalize_output=False)(x, target=1).relevance
    torch.testing.assert_close(relevance, input_times_gradient(model, x, 1))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    "sizes", [[(1, 1), (1, 3), (2, 3)], [(2, 3), (1, 3), (2, 1), (1, 1)], [(3, 1), (3, 2), (1, 1)]]
)
def test_a_size_of_one_is_not_taken_for_more(dim: int, sizes: list[tuple[int, int]]) -> None:
    model = seeded(Otherwise(dim))
    lrp = LRP(model)
    for size in sizes:
        ids = torch.randint(0, 7, size)
        torch.testing.assert_close(lrp(ids, target=0).output, model(ids))


def test_one_program_serves_any_batch_where_the_model_does_nothing_else_for_one() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)))
    for batch in (1, 4):
        graph = capture(model, (torch.randn(batch, 1, 4, 4),))
        for other in (1, 2, 5):
            x = torch.randn(other, 1, 4, 4)
            assert graph.serves([x])
            torch.testing.assert_close(evaluate(graph, [x]), model(x))


def test_a_program_of_many_is_not_used_for_one_untried() -> None:
    graph = capture(Normalized(), (torch.ones(3, 2),))
    assert graph.serves([torch.ones(2, 2)])
    assert not graph.serves([torch.ones(1, 2)])


def test_one_sample_is_captured_by_itself_where_more_are_something_else() -> None:
    graph = capture(Normalized(), (torch.ones(1, 2),))
    assert not graph.serves([torch.ones(3, 2)])
    assert torch.equal(evaluate(graph, [torch.ones(1, 2)]), torch.full((1, 2), 2.0))

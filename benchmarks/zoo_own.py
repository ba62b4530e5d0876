"""Architectures of graphs and tables, written out small, since their packages bring operators or data of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_entry import Built, Entry

NODES, EDGES, FEATURES, CLASSES = 12, 30, 6, 5


class GraphConvolution(nn.Module):
    """GCN (Kipf and Welling 2017): neighbours' features, over the roots of both degrees, summed by `index_add`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        loops = torch.arange(x.shape[0], device=x.device)
        source, target = torch.cat([edges, torch.stack([loops, loops])], 1)
        degree = torch.zeros(x.shape[0], device=x.device).scatter_add(0, target, torch.ones_like(target, dtype=x.dtype))
        norm = (degree[source] * degree[target]).rsqrt()
        h = self.linear(x)
        return torch.zeros_like(h).index_add(0, target, h[source] * norm[:, None])


class GraphAttention(nn.Module):
    """GAT (Veličković et al. 2018): a softmax over each node's incoming edges, by `scatter_reduce`."""

    def __init__(self, inputs: int, outputs: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.linear = heads, nn.Linear(inputs, heads * outputs, bias=False)
        self.source, self.target = nn.Parameter(torch.randn(heads, outputs)), nn.Parameter(torch.randn(heads, outputs))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        h = self.linear(x).reshape(x.shape[0], self.heads, -1)
        score = F.leaky_relu((h * self.source).sum(-1)[source] + (h * self.target).sum(-1)[target], 0.2)
        place = target[:, None].expand_as(score)
        blank = x.new_zeros(x.shape[0], self.heads)
        highest = blank.scatter_reduce(0, place, score, "amax", include_self=False)
        weight = (score - highest[target]).exp()
        weight = weight / blank.scatter_add(0, place, weight)[target]
        mixed = torch.zeros_like(h).index_add(0, target, h[source] * weight[..., None])
        return mixed.flatten(1)


class OfNodes(nn.Module):
    """Two layers over a graph; the logits of every node."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(F.elu(self.first(x, edge_index)), edge_index)


class FTTransformer(nn.Module):
    """FT-Transformer (Gorishniy et al. 2021): each number and category of a row is a token."""

    def __init__(self, numbers: int = 4, categories: tuple[int, ...] = (3, 7), width: int = 16) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(numbers, width)), nn.Parameter(torch.randn(numbers, width))
        self.register_buffer("offsets", torch.tensor([0, *categories[:-1]]).cumsum(0))
        self.categories = nn.Embedding(sum(categories), width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        tokens = numbers[..., None] * self.weight + self.bias
        rows = self.categories(categories + self.offsets)
        x = torch.cat([self.token.expand(len(numbers), -1, -1), tokens, rows], 1)
        return self.head(self.norm(self.encoder(x)[:, 0]).relu())


def sparsemax(z: Tensor) -> Tensor:
    """The nearest point of the simplex (Martins and Astudillo 2016)."""
    ordered = z.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    inside = 1 + k * ordered > ordered.cumsum(-1)
    count = inside.sum(-1, keepdim=True)
    threshold = (ordered.where(inside, 0).sum(-1, keepdim=True) - 1) / count
    return (z - threshold).relu()


class TabNet(nn.Module):
    """TabNet (Arik and Pfister 2021): in each step a sparse mask chooses features, gated layers read them."""

    def __init__(self, features: int = 8, width: int = 8, steps: int = 3, reuse: float = 1.3) -> None:
        super().__init__()
        self.reuse, self.width = reuse, width
        self.norm, self.shared = nn.BatchNorm1d(features), nn.Linear(features, 4 * width)
        self.attend = nn.ModuleList(nn.Linear(width, features) for _ in range(steps))
        self.own = nn.ModuleList(nn.Linear(2 * width, 4 * width) for _ in range(steps + 1))
        self.head = nn.Linear(width, CLASSES)

    def read(self, x: Tensor, own: nn.Module) -> tuple[Tensor, Tensor]:
        h = F.glu(self.shared(x))
        h = (h + F.glu(own(h))) * 0.5**0.5
        return h[:, : self.width].relu(), h[:, self.width :]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        total, prior = torch.zeros_like(x[:, :1]), torch.ones_like(x)
        _, attended = self.read(x, self.own[0])
        for attend, own in zip(self.attend, self.own[1:], strict=True):
            mask = sparsemax(prior * attend(attended))
            prior = prior * (self.reuse - mask)
            decided, attended = self.read(mask * x, own)
            total = total + decided
        return self.head(total)


def own_entries() -> Iterator[Entry]:
    """Two kinds of graphs, explained at class 2 of every node, and two of tables."""
    yield Entry("written_out", "GCN", _graph(GraphConvolution(FEATURES, 8), GraphConvolution(8, CLASSES)), 2)
    yield Entry("written_out", "GAT", _graph(GraphAttention(FEATURES, 8), GraphAttention(16, CLASSES, 1)), 2)
    yield Entry("written_out", "FTTransformer", _table)
    yield Entry("written_out", "TabNet", lambda: (TabNet(), {"x": torch.randn(2, 8)}))


def _graph(first: nn.Module, second: nn.Module) -> Callable[[], Built]:
    def build() -> Built:
        return OfNodes(first, second), {
            "x": torch.randn(NODES, FEATURES),
            "edge_index": torch.randint(0, NODES, (2, EDGES)),
        }

    return build


def _table() -> Built:
    categories = torch.stack([torch.randint(0, 3, (2,)), torch.randint(0, 7, (2,))], 1)
    return FTTransformer(), {"numbers": torch.randn(2, 4), "categories": categories}

"""Token ids: relevance is that of their embeddings, laid out as the ids came."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import UnexplainedError
from relprop.rules import ZeroRule


class TimeFirst(nn.Module):
    """Transposes token ids before it embeds them, as XLNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids.transpose(0, -1).contiguous()).cumsum(0)[-1])


def test_transposed_ids_are_explained_as_they_came() -> None:
    torch.manual_seed(0)
    model = TimeFirst().double()
    ids = torch.randint(0, 10, (2, 5))
    explained = LRP(model, ZeroRule(bias="ignore"))(ids, target=1)
    assert explained.relevance.shape == (2, 5, 4)
    shares = model.embedding(ids) * model.head.weight[1]
    assert_each_close(explained.relevance, shares / shares.sum((1, 2), keepdim=True), atol=1e-6)


VOCABULARY, DIM = 30, 4


class Lookup(nn.Module):
    """Ids on some way to a table, and a linear head, whose relevance is its weight times each embedding."""

    def __init__(self, look_up: Callable[[Lookup, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look_up = look_up
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.table = nn.Parameter(torch.randn(VOCABULARY, DIM))
        self.head = nn.Linear(DIM, 3, bias=False)
        self.register_buffer("offsets", torch.tensor([0, 3, 7, 0, 2]))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.look_up(self, ids))


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 10, (2, 5))


ROWS: dict[str, tuple[Callable[[Lookup, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    ".t()": (lambda m, ids: m.embedding(ids.t()).sum(0), lambda ids: ids),
    ".T": (lambda m, ids: m.embedding(ids.T).sum(0), lambda ids: ids),
    ".mT": (lambda m, ids: m.embedding(ids.mT).sum(0), lambda ids: ids),
    "permuted": (lambda m, ids: m.embedding(ids.permute(1, 0).contiguous()).sum(0), lambda ids: ids),
    "cut": (lambda m, ids: m.embedding(ids[:, :3]).sum(1), lambda ids: ids[:, :3]),
    "narrowed": (lambda m, ids: m.embedding(ids.narrow(1, 1, 2)).sum(1), lambda ids: ids[:, 1:3]),
    "shifted": (lambda m, ids: m.embedding(ids + m.offsets).sum(1), lambda ids: ids + torch.tensor([0, 3, 7, 0, 2])),
    "one more": (lambda m, ids: m.embedding(1 + ids).sum(1), lambda ids: ids + 1),
    "a column": (lambda m, ids: m.embedding(ids[:, 2]), lambda ids: ids[:, 2]),
    "clamped": (lambda m, ids: m.embedding(ids.clamp(2, 5)).sum(1), lambda ids: ids.clamp(2, 5)),
    "hashed": (lambda m, ids: m.embedding((ids * 7) % 11).sum(1), lambda ids: (ids * 7) % 11),
    "masked": (lambda m, ids: m.embedding(ids.masked_fill(ids < 3, 0)).sum(1), lambda ids: ids.masked_fill(ids < 3, 0)),
    "chosen": (
        lambda m, ids: m.embedding(torch.where(ids < 3, 0, ids)).sum(1),
        lambda ids: ids.masked_fill(ids < 3, 0),
    ),
    "reversed": (lambda m, ids: m.embedding(ids.flip(1)).sum(1), lambda ids: ids.flip(1)),
    "viewed": (lambda m, ids: m.embedding(ids.view(-1)).view(len(ids), -1, DIM).sum(1), lambda ids: ids),
    "in pairs": (lambda m, ids: m.embedding(ids[:, :4].reshape(-1, 2, 2)).sum((1, 2)), lambda ids: ids[:, :4]),
    "split": (lambda m, ids: m.embedding(ids.split([2, 3], 1)[1]).sum(1), lambda ids: ids[:, 2:]),
    "chunked": (lambda m, ids: m.embedding(ids.chunk(2, 1)[0]).sum(1), lambda ids: ids[:, :3]),
    "tensor_split": (lambda m, ids: m.embedding(ids.tensor_split(2, 1)[1]).sum(1), lambda ids: ids[:, 3:]),
    "unbound": (lambda m, ids: m.embedding(ids.unbind(1)[2]), lambda ids: ids[:, 2]),
    "sorted": (lambda m, ids: m.embedding(ids.sort(1).values).sum(1), lambda ids: ids.sort(1).values),
    "padded": (lambda m, ids: m.embedding(F.pad(ids, (1, 0), value=4)).sum(1), lambda ids: F.pad(ids, (1, 0), value=4)),
    "indexed": (lambda m, ids: m.table[ids].sum(1), lambda ids: ids),
    "selected": (lambda m, ids: m.table.index_select(0, ids.flatten()).view(len(ids), -1, DIM).sum(1), torch.flatten),
}
"""Name -> how the model looks ids up, and which rows of the table are read, in the order of the call."""


@pytest.mark.parametrize("way", ROWS)
def test_ids_have_relevance_whatever_their_way_to_the_table(way: str) -> None:
    look_up, rows = ROWS[way]
    model, ids = Lookup(look_up).eval(), tokens()
    expl = LRP(model, normalize_output=False)(ids, target=1, audit=True)
    table = model.table if way in {"indexed", "selected"} else model.embedding.weight
    assert list(expl.by_input) == ["ids"]
    assert_each_close(expl.by_input["ids"], (table[rows(ids)] * model.head.weight[1]).detach(), atol=1e-6)
    assert expl.ledger.imbalance < 1e-5
    assert expl.ledger.input == pytest.approx(float(expl.output[:, 1].sum()), rel=1e-4)


def test_how_ids_are_ranked_is_no_id() -> None:
    model = Lookup(lambda m, ids: m.embedding(ids.sort(1).indices).sum(1) + m.embedding(ids).sum(1)).eval()
    expl = LRP(model, normalize_output=False)(tokens(), target=1)
    assert list(expl.by_input) == ["ids"]
    assert expl.by_input["ids"].shape == (2, 5, DIM)


@pytest.mark.parametrize(
    "mask",
    [
        lambda ids: (ids == 3).float(),
        lambda ids: (ids[..., None] == ids[:, None]).float().sum(-1),
        lambda ids: (ids[..., None] == torch.tensor([3, 5])).any(-1).float(),
        lambda ids: (ids == torch.tensor([3, 3, 3, 5, 5])).float(),
    ],
    ids=["one id", "pairs", "some ids", "id by id"],
)
def test_masks_that_are_compared_are_no_categories(mask: Callable[[Tensor], Tensor]) -> None:
    model = Lookup(lambda m, ids: (m.embedding(ids) * mask(ids)[..., None]).sum(1)).eval()
    ids = torch.tensor([[3, 1, 3, 5, 9], [2, 3, 5, 8, 3]])
    expl = LRP(model, normalize_output=False)(ids, target=1, audit=True)
    assert list(expl.by_input) == ["ids"]
    expected = model.embedding(ids) * mask(ids)[..., None] * model.head.weight[1]
    assert_each_close(expl.by_input["ids"], expected.detach(), atol=1e-6)


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "long": lambda x: x.long(),
    "int": lambda x: x.int(),
    "type": lambda x: x.type(torch.int64),
    "rounded": lambda x: x.round().to(torch.long),
    "cut": lambda x: x[:, :2].long(),
    "shifted": lambda x: x.long() + 1,
}


@pytest.mark.parametrize("cast", CASTS)
def test_categories_among_numbers(cast: str) -> None:
    """A table of floats, some columns of which are cast to ids: those have relevance of their own."""

    class Table(Lookup):
        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(CASTS[cast](ids[:, :3])).sum(1) + ids[:, 3:])

    model, numbers = Table(lambda m, ids: ids).eval(), torch.rand(2, DIM)
    x = torch.cat([tokens()[:, :3].float(), numbers], 1)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    w = model.head.weight[1].detach()
    assert_each_close(expl.by_input["ids@1"], model.embedding(CASTS[cast](x[:, :3])).detach() * w, atol=1e-6)
    assert_each_close(expl.by_input["ids"][:, 3:], numbers * w, atol=1e-6)
    assert not expl.by_input["ids"][:, :3].any()
    assert expl.ledger.imbalance < 1e-5


def test_a_token_put_in_front_is_a_constant_with_the_name_of_the_table() -> None:
    def look_up(model: Lookup, ids: Tensor) -> Tensor:
        front = torch.full((len(ids), 1), 12, dtype=torch.long)
        return model.embedding(torch.cat([front, ids], 1)).sum(1)

    model, ids = Lookup(look_up).eval(), tokens()
    expl = LRP(model, normalize_output=False)(ids, target=1, audit=True)
    w = model.head.weight[1].detach()
    assert_each_close(expl.by_input["ids"], model.embedding(ids).detach() * w, atol=1e-6)
    front = 2 * float((model.embedding.weight[12].detach() * w).sum())
    assert sum(expl.ledger.sinks.values()) == pytest.approx(front, rel=1e-4)


@pytest.mark.parametrize("form", ["linear", "matmul", "scatter", "compared", "compared with"])
def test_one_hot_rows_have_relevance_where_the_one_is(form: str) -> None:
    def look_up(model: Lookup, ids: Tensor) -> Tensor:
        if form == "scatter":
            rows = torch.zeros(*ids.shape, VOCABULARY).scatter_(-1, ids.unsqueeze(-1), 1.0)
        elif form == "compared":
            rows = (ids[..., None] == torch.arange(VOCABULARY)).float()
        elif form == "compared with":
            rows = torch.arange(VOCABULARY).eq(ids.unsqueeze(-1)).to(torch.float32)
        else:
            rows = F.one_hot(ids, VOCABULARY).float()
        return (F.linear(rows, model.table.T) if form == "linear" else rows @ model.table).sum(1)

    model, ids = Lookup(look_up).eval(), tokens()
    relevance = LRP(model, normalize_output=False)(ids, target=1).by_input["ids"]
    assert relevance.shape == (2, 5, VOCABULARY)
    expected = (model.table[ids] * model.head.weight[1]).sum(-1).detach()
    assert_each_close(relevance.gather(-1, ids.unsqueeze(-1)).squeeze(-1), expected, atol=1e-6)
    assert_each_close(relevance.sum(-1), expected, atol=1e-6)


class Bag(nn.Module):
    def __init__(self, mode: str, weighted: bool = False, padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weighted = weighted
        self.bag = nn.EmbeddingBag(VOCABULARY, DIM, mode=mode, padding_idx=padding)
        self.head = nn.Linear(DIM, 3, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        weights = torch.linspace(1, 2, ids.shape[1]).expand(ids.shape) if self.weighted else None
        return self.head(self.bag(ids, per_sample_weights=weights))


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighted"])
def test_bags_of_ids(mode: str) -> None:
    model = Bag("sum" if mode == "weighted" else mode, weighted=mode == "weighted").eval()
    ids = torch.tensor([[3, 1, 4, 15, 9], [2, 6, 5, 8, 7]])  # none twice: a maximum that is reached twice has no winner
    expl = LRP(model, normalize_output=False)(ids, target=1)
    rows, w = model.bag.weight[ids].detach(), model.head.weight[1].detach()
    shares = {
        "sum": rows,
        "mean": rows / 5,
        "max": rows * (torch.arange(5)[None, :, None] == rows.argmax(1, keepdim=True)),
        "weighted": rows * torch.linspace(1, 2, 5)[None, :, None],
    }[mode]
    assert_each_close(expl.by_input["ids"].sum((1, 2)), expl.output[:, 1], atol=1e-5)
    assert_each_close(expl.by_input["ids"].sum(-1), (shares * w).sum(-1), atol=1e-5)


def test_a_bag_that_cannot_be_written_out_is_refused_by_name() -> None:
    with pytest.raises(UnexplainedError, match="embedding_bag"):
        LRP(Bag("mean", padding=0).eval())(tokens(), target=1)


class Table(nn.Module):
    """Categories beside numbers: in columns of their own, or in columns of one table of floats."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart = apart
        self.embeddings = nn.ModuleList([nn.Embedding(10, 2), nn.Embedding(10, 3)])
        self.head = nn.Linear(7, 2, bias=False)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        columns = categories if self.apart else numbers[:, 2:].long()
        embedded = [embedding(columns[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.head(torch.cat([*embedded, numbers[:, :2]], 1))


@pytest.mark.parametrize("apart", [True, False])
def test_columns_of_a_table_have_an_entry_each(apart: bool) -> None:
    model, ids = Table(apart).eval(), tokens()[:, :2]
    numbers = torch.cat([torch.randn(2, 2), ids.float()], 1)
    expl = LRP(model, normalize_output=False)(ids, numbers, target=1)
    w = model.head.weight[1].detach()
    names = ["categories", "categories@1"] if apart else ["numbers@1", "numbers@2"]
    assert set(expl.by_input) == {"numbers", *names}
    for name, embedding, column, part in zip(names, model.embeddings, ids.T, (w[:2], w[2:5]), strict=True):
        assert_each_close(expl.by_input[name], embedding(column).detach() * part, atol=1e-6)
    assert_each_close(expl.by_input["numbers"][:, :2], numbers[:, :2] * w[5:], atol=1e-6)


def test_ids_of_two_inputs_in_one_call_have_both_names() -> None:
    class Pair(Lookup):
        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return self.head(self.embedding(torch.stack([user, item + 10], 1)).sum(1))

    model, (user, item, *_) = Pair(lambda m, ids: ids).eval(), tokens().T
    expl = LRP(model, normalize_output=False)(user, item, target=1)
    rows = model.embedding(torch.stack([user, item + 10], 1)).detach()
    assert_each_close(expl.by_input["user+item"], rows * model.head.weight[1].detach(), atol=1e-6)


@pytest.mark.parametrize("positions", ["cumsum", "product", "compared"])
def test_positions_counted_from_a_mask_are_no_ids(positions: str) -> None:
    def look_up(model: Lookup, ids: Tensor) -> Tensor:
        mask = ids.ne(0).long()
        places = {
            "cumsum": (mask.cumsum(1) * mask + 1),
            "product": mask * torch.arange(ids.shape[1]),
            "compared": (ids > 3).long(),
        }[positions]
        return (model.embedding(ids) + model.embedding(places)).sum(1)

    expl = LRP(Lookup(look_up).eval(), normalize_output=False)(tokens(), target=1, audit=True)
    assert list(expl.by_input) == ["ids"]
    assert expl.ledger.sinks["embedding"] == pytest.approx(float(expl.output[:, 1].sum()) - expl.ledger.input, rel=1e-4)


@pytest.mark.parametrize("positions", ["cumsum", "product"])
def test_positions_counted_from_a_mask_among_the_inputs_are_no_ids(positions: str) -> None:
    class Masked(Lookup):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            places = mask.cumsum(1) * mask if positions == "cumsum" else mask * torch.arange(ids.shape[1])
            return self.head((self.embedding(ids) + self.embedding(places)).sum(1))

    model, ids = Masked(lambda m, ids: ids).eval(), tokens()
    assert list(LRP(model)(ids, torch.ones_like(ids), target=1).by_input) == ["ids"]

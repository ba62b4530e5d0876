"""Occlusion curves on models whose truth is known in closed form, on perfect, inverted and random explanations."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn

from relprop.errors import InputError
from relprop.evaluation import (
    Constant,
    Features,
    Groups,
    Occluder,
    Patches,
    Pixels,
    Subject,
    Tokens,
    occlusion,
    shapley_values,
)
from relprop.targets import Difference, Logit, PerSample


class Weighted(nn.Module):
    """`y_k = Σ_p w_kp x_p`, contributions that add up."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return torch.einsum("k...,b...->bk", self.weight, x)


def linear(*weight: float) -> nn.Module:
    return Weighted(torch.tensor([weight, [0.0] * len(weight)], dtype=torch.float64))


def occluder(model: nn.Module, x: torch.Tensor, groups: Groups, **options) -> Occluder:
    return Occluder(Subject(model, x, 0), groups, steps=options.pop("steps", 100), **options)


def test_curves_of_a_linear_model_by_hand():
    # contributions 4, -2, 1, 0; whole 3
    # MIF takes 4, 1, 0, -2 away: 3, -1, -2, -2, 0. LIF takes -2, 0, 1, 4 away: 3, 5, 5, 4, 0
    x = torch.tensor([[1.0, 1.0, 2.0, 5.0]], dtype=torch.float64)
    model = linear(4.0, -2.0, 0.5, 0.0)
    found = occlusion(Subject(model, x, 0), x * model.weight[0].detach(), Features(), steps=4)
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.mif.tolist() == [[3, -1, -2, -2, 0]]
    assert found.lif.tolist() == [[3, 5, 5, 4, 0]]
    # AUC by trapezoids: MIF (1.5 - 1 - 2 - 2 + 0) / 4, LIF (1.5 + 5 + 5 + 4 + 0) / 4
    assert found.deletion.item() == -3.5 / 4
    assert found.insertion.item() == 15.5 / 4
    assert found.srg.item() == 19 / 4
    assert found.abpc.item() == (0 + 6 + 7 + 6 + 0) / 5
    assert found.aopc.item() == (0 + 4 + 5 + 5 + 3) / 5
    assert found.relative_srg.item() == pytest.approx(19 / 4 / 3)
    assert occlusion(Subject(model, -x, 0), x, Features()).relative_srg.isnan().all()


def test_comprehensiveness_and_sufficiency_by_hand():
    x = torch.ones(1, 10, dtype=torch.float64)
    model = linear(*range(10, 0, -1))  # whole 55
    one = occluder(model, x, Features())
    found = one.erased(one.ranks(x * model.weight[0].detach()), (0.1, 0.5))
    assert found["comprehensiveness"].item() == (10 + 40) / 2  # without 10; without 10, 9, 8, 7, 6
    assert found["sufficiency"].item() == ((55 - 10) + (55 - 40)) / 2


@pytest.mark.parametrize("seed", range(3))
def test_the_true_contributions_have_the_largest_gain_of_all_orders(seed: int):
    torch.manual_seed(seed)
    x = torch.randn(1, 5, dtype=torch.float64)
    model = linear(*torch.randn(5).tolist())
    one = occluder(model, x, Features())
    every = [one.curves(torch.tensor([order])).srg.item() for order in permutations(range(5))]
    truth = x * model.weight[0].detach()
    assert one.curves(one.ranks(truth)).srg.item() == pytest.approx(max(every))
    assert one.curves(one.ranks(-truth)).srg.item() == pytest.approx(min(every))
    assert sum(every) == pytest.approx(0, abs=1e-9)


def test_an_inverted_explanation_has_the_opposite_gain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, relevance = torch.randn(6, 12, dtype=torch.float64), torch.randn(6, 12)
    one = occluder(model, x, Features())
    there, back = one.curves(one.ranks(relevance)), one.curves(one.ranks(-relevance))
    torch.testing.assert_close(there.srg, -back.srg)
    torch.testing.assert_close(there.mif, back.lif)


def test_random_orders_gain_nothing_and_an_unsigned_one_less_than_the_truth():
    torch.manual_seed(0)
    x = torch.randn(400, 10, dtype=torch.float64)
    model = linear(*torch.randn(10).tolist())
    one = occluder(model, x, Features(), batch=4096)
    random = one.curves(one.random_ranks(0)).srg
    assert abs(random.mean()) < 3 * random.std() / 20
    assert (random < 0).any(), "a clipped gain would have no negative ones"
    truth = x * model.weight[0].detach()
    assert one.curves(one.ranks(truth.abs())).srg.mean() < 0.5 * one.curves(one.ranks(truth)).srg.mean()


def test_the_gain_is_what_both_ways_gain_over_random_orders():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    found = occlusion(Subject(model, x, 0), torch.randn(3, 8), Features(), orders=5)
    assert found.random is not None
    torch.testing.assert_close(found.mrg + found.lrg, found.srg)
    with pytest.raises(InputError, match="orders=n"):
        occlusion(Subject(model, x, 0), torch.randn(3, 8), Features()).mrg  # noqa: B018


def test_a_planted_trigger_is_what_counts():
    """Only one patch matters: the gain is the largest possible where it comes first, and 0 where it comes half way."""

    class Trigger(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, :, 4:6, 2:4].mean((1, 2, 3)), torch.zeros(len(x), dtype=x.dtype)], 1)

    x = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    relevance = torch.zeros(1, 3, 8, 8)
    relevance[:, :, 4:6, 2:4] = 1
    one = occluder(Trigger(), x, Patches(size=2))
    right = one.curves(one.ranks(relevance))
    assert right.mif.tolist() == [[1.0] + [0.0] * 16]
    assert right.lif.tolist() == [[1.0] * 16 + [0.0]]
    assert right.srg.item() == pytest.approx(15 / 16)
    wrong = one.curves(one.ranks(-relevance))
    assert wrong.srg.item() == pytest.approx(-15 / 16)


def test_answers_do_not_depend_on_the_batch_and_repeat():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    relevance = torch.zeros(3, 3, 4, 4)  # all ties, broken by the seed
    curves = [
        occluder(model, x, Pixels(), batch=b).curves(occluder(model, x, Pixels()).ranks(relevance)) for b in (1, 64)
    ]
    torch.testing.assert_close(curves[0].mif, curves[1].mif)
    ranks = occluder(model, x, Pixels()).ranks(relevance)
    assert torch.equal(ranks, occluder(model, x, Pixels()).ranks(relevance))
    assert not torch.equal(ranks, occluder(model, x, Pixels(), seed=1).ranks(relevance))
    assert ranks[0].tolist() != list(range(16)), "ties in the order of places favour the upper left"


def test_groups_score_by_the_signed_sum_or_the_mean():
    x = torch.zeros(1, 2, 4, 6)
    relevance = torch.zeros(1, 2, 4, 6)
    relevance[0, :, :, 4:] = torch.tensor([1.5, -1.0])[:, None, None]  # small border patches: 0.5 for each pixel
    relevance[0, 0, :, :4] = 0.3  # 16 pixels of 0.3
    labels = Patches(size=4).labels(x)
    assert labels.tolist() == [[[0, 0, 0, 0, 1, 1]] * 4]
    assert Patches(size=4).scores(relevance, labels)[0].tolist() == pytest.approx([4.8, 4.0])
    assert Patches("mean", size=4).scores(relevance, labels)[0].tolist() == pytest.approx([0.3, 0.5])


def test_samples_may_have_different_numbers_of_groups():
    class Halves(Pixels):
        def labels(self, inputs):
            columns = torch.arange(4)
            return torch.stack([(columns // 2).expand(4, 4), columns.expand(4, 4)])

    x = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    model = Weighted(torch.ones(1, 1, 4, 4, dtype=torch.float64))
    one = occluder(model, x, Halves())
    assert one.sizes.tolist() == [2, 4]
    ranks = one.ranks(torch.arange(4.0).expand(2, 1, 4, 4))
    assert ranks[0, :2].tolist() == [1, 0]
    assert ranks[1].tolist() == [3, 2, 1, 0]
    curves = one.curves(ranks)
    assert curves.mif.tolist() == [[16, 16, 8, 0, 0], [16, 12, 8, 4, 0]]  # a quarter of 2 groups is rounded to none
    assert curves.lif.tolist() == [[16, 16, 8, 0, 0], [16, 12, 8, 4, 0]]


def test_the_tracked_value():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64)
    rows, output = torch.arange(5), model(x).detach()
    best = output.argmax(1)
    torch.testing.assert_close(Subject(model, x).values(x, rows), output.amax(1))
    torch.testing.assert_close(Subject(model, x, best, "probability").values(x, rows), output.softmax(1).amax(1))
    margin = Subject(model, x, 0, lambda y: y[:, 0] - y[:, 1])
    torch.testing.assert_close(margin.values(x, rows), output[:, 0] - output[:, 1])
    # the entry stays that of the unchanged input
    torch.testing.assert_close(Subject(model, x).values(-x, rows), model(-x).detach().gather(1, best[:, None])[:, 0])
    # targets that are no single entry, of samples in another order
    some, pair = torch.tensor([3, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    several = Subject(model, x, Logit(0) - 2 * PerSample(pair))
    expected = output[some, 0] - 2 * output[some, pair[some]]
    torch.testing.assert_close(several.values(x[some], some), expected)
    torch.testing.assert_close(
        several.of(slice(1, 3))[1].amount(output[1:3]), output[1:3, 0] - 2 * output[1:3, 1:].diag()
    )
    # the largest output stays that of the unchanged input here, too
    other = (best + 1) % 3
    behind = Subject(model, x, Difference(PerSample(other), None)).values(-x, rows)
    torch.testing.assert_close(behind, (model(-x)[rows, other] - model(-x)[rows, best]).detach())
    for wrong in ("logits", 3):
        with pytest.raises(InputError, match="track"):
            Subject(model, x, 0, wrong)


def test_a_model_in_training_mode_is_asked_in_evaluation_mode_and_left_alone():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 2))
    x = torch.ones(2, 4)
    found = Subject(model, x, 0).values(x, torch.arange(2))
    torch.testing.assert_close(found, model[1](x)[:, 0].detach().double())
    assert model.training
    assert model[0].training


def test_tokens_of_several_inputs_by_name():
    class Reads(nn.Module):
        def forward(self, ids, mask):
            return {"logits": (ids * mask).sum(1, keepdim=True).double(), "other": ids}

    inputs = {"ids": torch.tensor([[3, 5, 7], [2, 4, 6]]), "mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    one = Occluder(Subject(Reads(), inputs, 0), Tokens(), Constant(0))
    curves = one.curves(one.ranks(torch.tensor([[3.0, 5.0, 0.0], [2.0, 4.0, 6.0]])))
    assert curves.mif.tolist() == [[8, 3, 0, 0], [12, 6, 2, 0]]
    assert curves.lif.tolist() == [[8, 8, 5, 0], [12, 10, 6, 0]]
    with pytest.raises(InputError, match="none of the inputs"):
        Subject(Reads(), inputs, 0, changed="positions")


def test_shapley_values_by_hand_and_of_an_additive_model():
    class Product(nn.Module):
        def forward(self, x):
            return (x[:, :1] * x[:, 1:2] + 2 * x[:, 2:3]).double()

    # x0 x1 = 6 is shared by half, 2 x2 = 10 is x2's own, x3 gets nothing
    x = torch.tensor([[2.0, 3.0, 5.0, 7.0], [1.0, 1.0, 1.0, 1.0]])
    found = shapley_values(Occluder(Subject(Product(), x, 0), Features(), batch=3))
    torch.testing.assert_close(found, torch.tensor([[3, 3, 10, 0], [0.5, 0.5, 2, 0]], dtype=torch.float64))
    model = linear(*torch.randn(10).tolist())
    x = torch.randn(2, 10, dtype=torch.float64)
    torch.testing.assert_close(shapley_values(occluder(model, x, Features())), x * model.weight[0].detach())
    with pytest.raises(InputError, match="at most"):
        shapley_values(occluder(linear(*[1.0] * 20), torch.ones(1, 20, dtype=torch.float64), Features()))


def test_shapley_values_add_up_in_a_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    one = occluder(model, x, Features(), batch=1024)
    gain = (model(x) - model(torch.zeros_like(x)))[:, 0].detach()
    torch.testing.assert_close(shapley_values(one).sum(1), gain)


def test_what_does_not_fit_is_said():
    x = torch.ones(1, 3, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(InputError, match="needs pictures"):
        Pixels().labels(torch.ones(1, 4))
    one = Occluder(Subject(model, x, 0), Pixels())
    with pytest.raises(InputError, match="has places"):
        one.ranks(torch.ones(1, 3, 4, 4))
    with pytest.raises(InputError, match="not finite"):
        one.ranks(torch.full((1, 3, 8, 8), torch.nan))
    with pytest.raises(InputError, match="at least 1"):
        Occluder(Subject(model, x, 0), Pixels(), steps=0)

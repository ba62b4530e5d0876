"""What is put in the place of what is occluded, by hand and against dense solutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop.errors import InputError
from relprop.evaluation import Blur, Constant, MaskToken, Mean, NoisyLinear, Occluder, Subject, Tokens, ZeroEmbedding
from relprop.evaluation.fills import Fill, as_fill, fill_for


def filled(fill: Fill, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return fill(x, hidden, fill.prepared(x))


@pytest.mark.parametrize("fill", [Constant(0.5), Mean(), Blur(), NoisyLinear()], ids=repr)
def test_only_what_is_hidden_changes(fill: Fill):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 9, 7, dtype=torch.float64)
    hidden = torch.rand(3, 1, 9, 7) < 0.4
    found = filled(fill, x, hidden)
    where = hidden.expand_as(x)
    assert torch.equal(found[~where], x[~where])
    assert not torch.isclose(found[where], x[where]).any()
    assert torch.equal(found, filled(fill, x, hidden))
    torch.testing.assert_close(found[1:2], filled(fill, x[1:2], hidden[1:2]))  # nothing of the other samples


def test_means_by_hand():
    x = torch.tensor([[[[0.0, 2.0]], [[4.0, 6.0]]]])
    everything = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert filled(Mean(), x, everything).tolist() == [[[[1.0, 1.0]], [[5.0, 5.0]]]]
    with pytest.raises(InputError, match=r"Constant\(data"):
        Mean().prepared(torch.ones(2, 3))


def test_blurring_keeps_constants_and_makes_neighbours_alike():
    torch.manual_seed(0)
    assert torch.allclose(Blur(2.0).prepared(torch.full((1, 1, 8, 5), 3.0)), torch.tensor(3.0))
    x = torch.randn(1, 3, 32, 32)
    assert Blur(3.0).prepared(x).std() < 0.2 * x.std()
    # a point becomes a Gaussian: neighbours e^(-1/2) of it at a distance of sigma
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[..., 15, 15] = 1
    row = Blur(2.0).prepared(point)[0, 0, 15]
    assert (row[17] / row[15]).item() == pytest.approx(torch.tensor(-0.5).exp().item())


def dense(picture: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The equations of ROAD's noisy linear imputation, solved for one channel (H, W), without noise."""
    height, width = picture.shape
    index = {p: i for i, p in enumerate(zip(*[t.tolist() for t in hidden.nonzero(as_tuple=True)], strict=True))}
    a, b = torch.eye(len(index), dtype=torch.float64), torch.zeros(len(index), dtype=torch.float64)
    for (r, c), i in index.items():
        weights = {}
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                if (dr or dc) and 0 <= r + dr < height and 0 <= c + dc < width:
                    weights[r + dr, c + dc] = 1 / 6 if not (dr and dc) else 1 / 12
        total = sum(weights.values())
        for place, weight in weights.items():
            if place in index:
                a[i, index[place]] -= weight / total
            else:
                b[i] += weight / total * picture[place]
    found = picture.clone()
    found[hidden] = torch.linalg.solve(a, b)
    return found


def test_noisy_linear_imputation_solves_its_equations():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    hidden = torch.rand(2, 1, 8, 6) < 0.6
    hidden[0, 0, 0], hidden[1, 0, :, -1] = True, True  # borders, where weights are renormalized
    found = filled(NoisyLinear(noise=0.0, tolerance=1e-10), x, hidden)
    for b in range(2):
        for c in range(3):
            torch.testing.assert_close(found[b, c], dense(x[b, c], hidden[b, 0]), atol=1e-7, rtol=0)


def test_noise_has_its_deviation_and_a_hidden_picture_its_mean():
    x = torch.full((1, 1, 64, 64), 2.0)
    found = filled(NoisyLinear(noise=0.1), x, torch.ones(1, 1, 64, 64, dtype=torch.bool))
    assert found.mean().item() == pytest.approx(2.0, abs=0.01)
    assert found.std().item() == pytest.approx(0.1, rel=0.1)


class Classifier(nn.Module):
    """Embeds ids and adds up: the head is tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids).sum(1))


def test_tokens_may_have_the_embedding_0_and_the_model_stays_what_it_is():
    torch.manual_seed(0)
    model, ids = Classifier().double(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = Occluder(Subject(model, ids, 7), Tokens(), ZeroEmbedding("table"))
    hidden = torch.tensor([[False, True, False], [True, True, True]])
    expected = model.head(model.table.weight[1] + model.table.weight[3])[7]
    torch.testing.assert_close(one.without(hidden, torch.arange(2)), torch.stack([expected, 0 * expected]).detach())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"no nn\.Embedding"):
        ZeroEmbedding("head").model(model)


def test_tokens_may_be_masked():
    ids = torch.tensor([[1, 2, 3]])
    assert filled(MaskToken(9), ids, torch.tensor([[True, False, True]])).tolist() == [[9, 2, 9]]
    with pytest.raises(InputError, match="token ids"):
        MaskToken(9).prepared(torch.ones(1, 3))


def test_what_users_write_becomes_a_fill():
    x, hidden = torch.ones(1, 1, 2, 2), torch.tensor([[[[True, False], [False, True]]]])
    own = as_fill(lambda inputs, where: inputs.masked_fill(where, -1))
    assert filled(own, x, hidden).tolist() == [[[[-1, 1], [1, -1]]]]
    assert filled(as_fill(torch.full((1, 1, 1), 3.0)), x, hidden).tolist() == [[[[3, 1], [1, 3]]]]
    with pytest.raises(InputError, match="made"):
        filled(as_fill(lambda inputs, where: inputs[:, :, :1]), x, hidden)
    assert isinstance(fill_for(x), Blur)
    with pytest.raises(InputError, match="MaskToken"):
        fill_for(torch.ones(1, 3, dtype=torch.long))

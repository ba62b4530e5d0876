"""Recurrent networks as parts of a model: words before them, time first, cells, learned states, other rules."""

from __future__ import annotations

import pytest
import torch
from support.arras import B, D, H, Model, T, network, noise
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.engine.rewrites import recurrent
from relprop.errors import CaptureError
from relprop.rules import GammaRule, ZeroRule

EXACT = ZeroRule(stabilizer=1e-15)


class Classifier(nn.Module):
    """As Arras et al. have it: words, a bidirectional LSTM, and classes from its two final states."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, D)
        self.lstm = nn.LSTM(D, H, bidirectional=True)
        self.head = nn.Linear(2 * H, 3)

    def forward(self, ids: Tensor) -> Tensor:
        _, (h, _) = self.lstm(self.words(ids).transpose(0, 1))  # time first
        logits: Tensor = self.head(torch.cat([h[0], h[1]], -1))
        return logits


def test_a_text_classifier():
    torch.manual_seed(0)
    model = Classifier().double().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lrp = LRP(model)
    for length in (5, 7, 5):  # a longer sequence is captured anew
        ids = torch.randint(11, (3, length), generator=torch.Generator().manual_seed(length))
        expl = lrp(ids, target=1, audit=True)
        assert expl.relevance.shape == (3, length, D)
        assert_close(expl.output, model(ids), rtol=1e-13)
        assert expl.ledger.imbalance <= 1e-8
        for i in range(3):
            assert_close(lrp(ids[i : i + 1], target=1).relevance, expl.relevance[i : i + 1], rtol=1e-9)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_time_first_at_the_input():
    """The first dimension of the input is time then, which the unrolled program cannot leave open."""
    made = network("GRU", batch_first=False)

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = made

        def forward(self, x: Tensor) -> Tensor:
            final: Tensor = self.gru(x)[1][0]
            return final

    lrp = LRP(TimeFirst(), EXACT)
    for length in (T, T + 2):
        x = noise(length, B, D)
        expected = LRP(Model(network("GRU"), 1), EXACT)(x.transpose(0, 1), target=(0, 2)).relevance
        assert_close(lrp(x, target=2).relevance.transpose(0, 1), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_equal_one_step(kind: type[nn.RNNCellBase]):
    name = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU", nn.RNNCell: "RNN tanh"}[kind]
    made = network(name)

    class OneStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(D, H).double()
            for own, given in zip(self.cell.parameters(), made.parameters(), strict=True):
                own.data.copy_(given.data)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x)
            return state[0] if isinstance(state, tuple) else state

    x, r = noise(B, D), noise(B, H, seed=2)
    expl = LRP(OneStep(), EXACT)(x, target=lambda output: r)
    whole = LRP(Model(made), EXACT)(x[:, None], target=lambda output: r[:, None])
    assert_close(expl.output, whole.output[:, 0], rtol=1e-14)
    assert_close(expl.relevance, whole.relevance[:, 0], rtol=1e-9)


def test_a_learned_initial_state_is_a_sink():
    made = network("LSTM", bias=False)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = made
            self.start = nn.Parameter(noise(1, 1, H, seed=5))

        def forward(self, x: Tensor) -> Tensor:
            start = self.start.expand(1, x.shape[0], H)
            sequence: Tensor = self.lstm(x, (start, start))[0]
            return sequence[:, -1]

    expl = LRP(Learned(), EXACT, normalize_output=True)(noise(B, T, D), target=0, audit=True)
    kept = sum(expl.ledger.sinks.values())
    assert abs(kept) > 1e-3
    assert expl.ledger.input + kept == pytest.approx(2.0, abs=1e-9)
    assert expl.ledger.imbalance <= 1e-10


def test_other_rules_serve_the_linear_layers():
    model, x = Model(network("LSTM")), noise(B, T, D)
    expl = LRP(model, Composite(GlobalTypeMap({nn.LSTM: GammaRule(0.25)})))(x, target=(T - 1, 0), audit=True)
    assert expl.ledger.imbalance <= 1e-8
    assert not torch.allclose(expl.relevance, LRP(model)(x, target=(T - 1, 0)).relevance, rtol=1e-2)


def test_too_long_to_unroll_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recurrent, "LONGEST", 19)
    with pytest.raises(CaptureError, match=r"network \(LSTM\): 5 steps in 4 layers and directions are 20 cells"):
        LRP(Model(network("LSTM", num_layers=2, bidirectional=True)))(noise(B, T, D), target=(0, 0))


def test_one_class_of_all_samples_with_time_first():
    """An integer speaks of the output, whose first dimension is the batch, though the input's first one is time."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = network("LSTM", batch_first=False), nn.Linear(H, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][-1])

    lrp, x = LRP(Last(), normalize_output=False), noise(7, 3, D)
    together = lrp(x, target=1, audit=True)
    alone = torch.cat([lrp(x[:, i : i + 1], target=1).relevance for i in range(3)], 1)
    assert_close(together.relevance, alone, rtol=1e-9)
    assert together.ledger.imbalance <= 1e-8

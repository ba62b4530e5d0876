"""Several targets on one forward pass: each explanation is that of a call of its own."""

from __future__ import annotations

import pytest
import torch
from support.cases import CASES, IMAGE, cnn
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.engine.ops.tape import Tape
from relprop.engine.program import answer as room
from relprop.errors import InputError, TargetError

TARGETS = [3, None, torch.tensor([0, 4]), (2,), lambda y: y / y.sum()]


@pytest.mark.parametrize("chunk", [None, pytest.param(2, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("case", CASES)
def test_each_equals_a_call_of_its_own(case: str, chunk: int | None) -> None:
    build, shape, composite = CASES[case]
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    lrp = LRP(model, composite)
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    for target, one in zip(TARGETS, lrp.each(x, targets=TARGETS, layers=name, chunk=chunk), strict=True):
        alone = lrp(x, target=target, layers=name)
        assert_close(one.relevance, alone.relevance, rtol=1e-10, what=f"{case} {target}")
        assert_close(one.layers[name], alone.layers[name], rtol=1e-10)
        assert torch.equal(one.output, alone.output)
        assert (one.target is None and alone.target is None) or torch.equal(one.target, alone.target)


def test_one_forward_pass_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = room.forward
    monkeypatch.setattr(room, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    LRP(cnn().eval(), EpsilonPlus()).each(torch.rand(IMAGE), targets=[0, 1, 2])
    assert len(calls) == 1


def test_refuses_what_makes_no_sense() -> None:
    lrp = LRP(cnn().eval())
    with pytest.raises(TargetError, match="out of range"):
        lrp.each(torch.rand(IMAGE), targets=[0, 9])
    for wrong in ({"targets": []}, {"targets": 3}, {"targets": [0], "chunk": 0}, {"targets": [0], "chunk": "all"}):
        with pytest.raises(InputError, match="in a list"):
            lrp.each(torch.rand(IMAGE), **wrong)


def test_targets_at_several_steps_of_a_sequence() -> None:
    """(time step, class): as a call of its own, and nothing comes to what a causal model reads later."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0])

    lrp, x = LRP(Tagger().double().eval(), normalize_output=False), torch.randn(2, 6, 3, dtype=torch.float64)
    targets = [(5, 1), (2, 0), (0, 3)]
    for (step, label), one in zip(targets, lrp.each(x, targets=targets), strict=True):
        assert_close(one.relevance, lrp(x, target=(step, label)).relevance, rtol=1e-9, what=f"{step} {label}")
        assert one.relevance[:, : step + 1].any()
        assert not one.relevance[:, step + 1 :].any()


def test_a_gpu_takes_as_many_targets_as_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape({}, torch.device("cuda"), torch.float32)
    tape.shapes |= {node: torch.Size(shape) for node, shape in (("a", (2, 64, 10)), ("b", (2, 3)))}  # type: ignore[misc]
    each = room.ALIVE * 2 * 64 * 10 * 4
    for free, expected in ((each * 5, 5), (each * 100, 20), (each // 2, 1), (None, 20)):
        monkeypatch.setattr(room, "free_memory", lambda device, free=free: free)
        assert room.fitting(tape, 20) == expected


def test_no_other_device_says_what_it_has_left() -> None:
    assert room.free_memory(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert room.free_memory(torch.device("cuda")) is None  # as of fake tensors

"""What cannot be captured is said, with the line and the way around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.engine.graph.capture import capture
from relprop.engine.graph.export import explain_failure
from relprop.errors import CaptureError, InputError


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_capture_failure_says_where() -> None:
    with pytest.raises(CaptureError) as raised:
        LRP(Branches())(torch.rand(2, 3))
    said = str(raised.value)
    assert "torch.export could not capture Branches" in said
    assert Path(__file__).name in said
    assert "x.sum() > 0" in said
    assert "torch.where" in said


@pytest.mark.parametrize("version", ["2.6.0+cpu", "2.9.1", "2.13.0"])
def test_a_capture_failure_names_an_old_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    said = explain_failure(Branches(), ValueError("no"))
    assert (f"PyTorch {version}" in said) == (version == "2.6.0+cpu")


class Reader(nn.Module):
    """A sentence's last state: by packing, or by reading the padded batch at each sample's own last step."""

    def __init__(self, packs: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.packs, self.lstm, self.head = packs, nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packs:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.lstm(packed)[1][0][-1])
        return self.head(self.lstm(x)[0][torch.arange(len(x)), lengths - 1])


def test_an_export_leaves_the_settings_of_pytorch_as_they_are() -> None:
    """It takes no notice of the model's lines, and puts that setting back, also where it fails."""

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("never")

    config, name = torch.fx.config, "do_not_emit_stack_traces"
    before = getattr(config, name, None)
    seen: list[Any] = []
    model = nn.Sequential(nn.Linear(3, 2))
    model.register_forward_hook(lambda *given: seen.append(getattr(config, name, None)))
    graph = capture(model, (torch.rand(2, 3),))
    assert seen[0] is (None if before is None else True)
    assert before is None or all("stack_trace" not in node.meta for node in graph.operators())
    with pytest.raises(InputError, match="never"):
        capture(Broken(), (torch.rand(2, 3),))
    assert getattr(config, name, None) is before


def test_packed_sequences_are_refused_with_the_way_around_them() -> None:
    x, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 3])
    with pytest.raises(CaptureError, match=r"output\[torch\.arange\(len\(x\)\), lengths - 1\]"):
        LRP(Reader(packs=True))(x, lengths, target=0)
    expl = LRP(Reader(packs=False))(x, lengths, target=0)
    assert_each_close(expl.output, Reader(packs=True)(x, lengths), atol=1e-6)
    assert expl.relevance[0].abs().sum(-1).all()
    assert not expl.relevance[1, 2:].any()
    alone = LRP(Reader(packs=False))(x[1:2, :2], lengths[1:2], target=0).relevance
    assert_each_close(expl.relevance[1:2, :2], alone, rtol=1e-4, atol=1e-6)
    with pytest.raises(CaptureError) as other:
        LRP(Branches())(torch.rand(2, 3))
    assert "pack" not in str(other.value)

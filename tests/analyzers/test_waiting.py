"""A first call that takes long says so to those who listen; what is quick, and every later call, says nothing."""

from __future__ import annotations

import logging
import time

import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.analyzers import waiting
from relprop.cli.reporting import reporting


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return self.linear(x)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "relprop"]


def test_a_long_first_call_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    lrp, x = LRP(Slow().eval()), torch.ones(1, 3)
    with caplog.at_level(logging.INFO, "relprop"):
        lrp(x)
        lrp(x)
    assert said(caplog) == ["Reading the program of Slow: once for inputs like these."]


def test_a_quick_one_is_not_spoken_of(caplog, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 60.0)
    with caplog.at_level(logging.INFO, "relprop"):
        LRP(nn.Linear(3, 2))(torch.ones(1, 3))
    assert said(caplog) == []


def test_nobody_hears_it_who_has_not_asked(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    LRP(Slow().eval())(torch.ones(1, 3))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_terminals_are_told_and_nothing_else_is(terminal, capsys, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    monkeypatch.setenv("FORCE_COLOR", "1") if terminal else monkeypatch.delenv("FORCE_COLOR", raising=False)
    with reporting():
        LRP(Slow().eval())(torch.ones(1, 3))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Reading the program of Slow" in err) == terminal
    assert not logging.getLogger("relprop").handlers

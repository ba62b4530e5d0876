"""The shim: it makes torchvision importable, stays out of the way afterwards, and hides no other failure."""

from __future__ import annotations

import importlib

import pytest
import torch
from support import torchvision_shim

installed = torchvision_shim.install()


@pytest.mark.skipif(not installed, reason="torchvision is not installed")
def test_torchvision_works_and_a_second_install_changes_nothing():
    import torchvision

    before = torch.ops.torchvision.nms.default
    assert torchvision_shim.install()
    assert torch.ops.torchvision.nms.default is before
    assert importlib.import_module("torchvision") is torchvision
    assert torchvision.models.get_model("squeezenet1_1")(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_without_torchvision_it_says_so(monkeypatch):
    def not_there(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", not_there)
    assert not torchvision_shim.install()


def test_other_failures_are_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_shim.install()

"""Weights from files: every common kind, and none that does not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from relprop.errors import ModelError
from relprop.models.weights import load_weights, misfit, read_state_dict


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


# --- weights ---


def save_plain(model, path):
    torch.save(model.state_dict(), path)


def save_wrapped(model, path):
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, path)


def save_from_parallel_training(model, path):
    torch.save({"model": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)


def save_from_compiled(model, path):
    torch.save({f"_orig_mod.{key}": value for key, value in model.state_dict().items()}, path)


def save_without_counters(model, path):
    torch.save({k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}, path)


def save_safe(model, path):
    save_file(model.state_dict(), path)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (save_plain, "w.pt"),
        (save_plain, "w.pth"),
        (save_wrapped, "w.pt"),
        (save_from_parallel_training, "w.pth"),
        (save_from_compiled, "w.pth"),
        (save_without_counters, "w.pth"),
        (save_safe, "w.safetensors"),
    ],
)
def test_every_kind_of_weights_file(tiny, save, name, tmp_path):
    save(tiny, tmp_path / name)
    torch.manual_seed(2)
    other = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.randn(1, 3, 4, 4)
    assert not torch.equal(other(x), tiny.eval()(x))
    load_weights(other, tmp_path / name)
    assert torch.equal(other(x), tiny(x))


def test_weights_that_do_not_fit_are_listed_and_change_nothing(tiny, tmp_path):
    state = tiny.state_dict()
    state["head.weight"] = state.pop("3.weight")
    state["0.bias"] = torch.zeros(7)
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_weights(tiny, tmp_path / "w.pt")
    lines = str(caught.value).splitlines()
    assert lines[1:4] == [
        "  1 missing: 3.weight",
        "  1 unexpected: head.weight",
        "  1 of another shape: 0.bias (7,) instead of (2,)",
    ]
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())


def test_long_lists_of_keys_are_cut(tiny):
    assert misfit(tiny, {}).strip() == "8 missing: 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean, and 3 more"


class Harmful:
    def __reduce__(self):
        return print, ("a checkpoint ran code",)


def test_checkpoints_run_no_code(tiny, tmp_path, capsys):
    torch.save({"state_dict": tiny.state_dict(), "extra": Harmful()}, tmp_path / "harmful.pt")
    torch.save(tiny, tmp_path / "whole_model.pt")
    for name in ("harmful.pt", "whole_model.pt"):
        with pytest.raises(ModelError, match=r"holds more than tensors .* save model.state_dict"):
            read_state_dict(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_broken_weights_files(tmp_path):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ModelError, match="not a readable"):
            read_state_dict(tmp_path / name)
    torch.save({"lr": 0.1, "w": torch.zeros(1)}, tmp_path / "odd.pt")
    torch.save(torch.zeros(1), tmp_path / "tensor.pt")
    for name, message in (
        ("odd.pt", "lr are no tensors"),
        ("tensor.pt", "no state dict but Tensor"),
        ("none.pt", "no such weights file"),
        ("w.bin", "ending in .safetensors, .pt, .pth"),
    ):
        with pytest.raises(ModelError, match=message):
            read_state_dict(tmp_path / name)

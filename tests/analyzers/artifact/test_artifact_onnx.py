"""Artifacts in ONNX: onnxruntime says what the live analyzer says, and what has no ONNX form is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.networks import Attention
from support.versions import export_refuses, from_2_13
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers.artifact import onnx
from relprop.analyzers.artifact.metadata import METADATA
from relprop.composites import AttnLRP, EpsilonPlus
from relprop.errors import ArtifactError, MissingExtraError


@pytest.fixture
def runtime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def fixed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Pools(nn.Module):
    """Strided, grouped and transposed convolutions, pools of maxima and of averages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.up(self.conv(x).relu()).relu(), 2, 1)
        return self.fc(F.avg_pool2d(h, 3, 2, 1).mean((2, 3)))


def session(runtime, path: Path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def near(found, expected: Tensor) -> None:
    scale = expected.abs().max()
    torch.testing.assert_close(torch.from_numpy(found) / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_convolutions_and_pools(runtime, tmp_path: Path):
    lrp = LRP(Pools().eval(), EpsilonPlus())
    path = lrp.export(tmp_path / "x.onnx", (torch.rand(2, 2, 6, 6),), target="input", layers=True)
    model = session(runtime, path)
    (name, target) = (i.name for i in model.get_inputs())
    x, index = torch.rand(5, 2, 6, 6), torch.tensor([0, 2, -1, 1, 0])
    results = model.run(None, {name: x.numpy(), target: index.numpy()})
    outputs = dict(zip([o.name for o in model.get_outputs()], results, strict=True))
    expected = lrp(x, target=index, layers=True)
    near(outputs["output"], expected.output)
    assert outputs["target_out"].tolist() == expected.target.tolist()  # an ONNX name is an input or an output
    near(outputs["relevance"], expected.relevance)
    for layer, relevance in expected.layers.items():
        near(outputs[f"layers.{layer}"], relevance)
    assert json.loads(model.get_modelmeta().custom_metadata_map[METADATA])["rules"] == str(lrp)
    assert list(tmp_path.iterdir()) == [path]


@from_2_13
def test_fused_attention_is_spelled_out(runtime, tmp_path: Path):
    lrp = LRP(Attention().eval(), AttnLRP())
    model = session(runtime, lrp.export(tmp_path / "x.onnx", (torch.randn(2, 5, 8),)))
    x = torch.randn(3, 5, 8)
    output, relevance, target = model.run(None, {"x": x.numpy()})
    expected = lrp(x)
    near(output, expected.output)
    near(relevance, expected.relevance)
    assert target.tolist() == expected.target.tolist()


@export_refuses
def test_an_operator_without_onnx_form_is_named(runtime, tmp_path: Path):
    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool3d(x, 2).flatten(1)

    with pytest.raises(ArtifactError, match=r"aten\.max_pool3d_with_indices_backward\.default .*\.pt2"):
        LRP(Cubic()).export(tmp_path / "x.onnx", (torch.rand(2, 1, 4, 4, 4),))
    assert not list(tmp_path.iterdir())


def test_the_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"onnx and onnxscript.*relprop\[onnx\]"):
        LRP(nn.Sequential(nn.Linear(3, 2))).export(tmp_path / "x.onnx", (torch.rand(2, 3),))
    assert not list(tmp_path.iterdir())

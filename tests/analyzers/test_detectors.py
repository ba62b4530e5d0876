"""Detectors as a whole are refused with the way around it; what scores their boxes is explained."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from support.torchvision_ops import install
from support.torchvision_shim import install as install_shim
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import CaptureError

install_shim()
if not install():
    pytest.skip("torchvision is not installed", allow_module_level=True)

from torchvision.models.detection import RetinaNet  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402


class Backbone(nn.Module):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": self.conv(x).relu()}


class Scores(nn.Module):
    def __init__(self, detector: RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(list(self.backbone(x).values()))["cls_logits"]
        return scores


@pytest.fixture(scope="module")
def detector() -> RetinaNet:
    torch.manual_seed(0)
    anchors = AnchorGenerator(((8,),), ((0.5, 1.0),))
    return RetinaNet(Backbone(), 3, min_size=32, max_size=32, anchor_generator=anchors).eval()


def test_a_detector_is_refused_with_the_way_around_it(detector: RetinaNet) -> None:
    with pytest.raises(CaptureError, match=r"Detectors choose boxes.*model\.head"):
        LRP(detector)([torch.rand(3, 32, 32)])


def test_an_anchor_s_score_is_explained(detector: RetinaNet) -> None:
    scores, x = Scores(detector).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for name, parameter in scores.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter)
    expl = LRP(scores, normalize_output=False)(x, target=(11, 2), audit=True)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-9
    assert_close(expl.relevance.sum((1, 2, 3)), scores(x)[:, 11, 2], rtol=1e-6)

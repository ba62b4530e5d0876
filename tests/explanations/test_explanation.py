"""What comes back from a call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.errors import ImageError


def test_only_pictures_are_drawn_as_pictures() -> None:
    with pytest.raises(ImageError, match="no batch of pictures"):
        LRP(nn.Sequential(nn.Linear(3, 2)))(torch.rand(2, 3)).heatmap()

"""Where relevance lies, by hand."""

from __future__ import annotations

import numpy as np
import torch

from relprop.evaluation.localization import Share, positive_share


def test_positive_share_by_hand():
    # summed over channels: [[4, -1], [1, 3]]; the mask holds the 3 of 4 + 1 + 3 = 8, and 1 of 4 pixels
    relevance = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[2.0, -2.0], [0.0, 0.0]]])
    mask = np.array([[False, False], [False, True]])
    assert positive_share(relevance, mask) == Share(3 / 8, 1 / 4)
    assert positive_share(-relevance.abs(), mask).relevance is None

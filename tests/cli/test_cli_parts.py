"""The command line's parts, by hand-worked cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relprop.errors import TargetError
from relprop.evaluation.localization import Share, positive_share
from relprop.explanations.sheet import MARGIN, Panel, contact_sheet
from relprop.jobs.files import unique_names
from relprop.targets.names import resolve_target


def test_positive_share_by_hand():
    # summed over channels: [[4, -1], [1, 3]]; the mask holds the 3 of 4 + 1 + 3 = 8, and 1 of 4 pixels
    relevance = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[2.0, -2.0], [0.0, 0.0]]])
    mask = np.array([[False, False], [False, True]])
    assert positive_share(relevance, mask) == Share(3 / 8, 1 / 4)
    assert positive_share(-relevance.abs(), mask).relevance is None


def test_names_do_not_collide():
    paths = [Path(name) for name in ("x/a.png", "y/A.jpg", "a-2.png", "b.png", "a.gif")]
    assert unique_names(paths) == ["a", "A-2", "a-2-2", "b", "a-3"]


def test_classes_of_one_name_need_an_index():
    with pytest.raises(TargetError, match=r"2 classes are named 'crane': give one of the indices \[0, 2\]"):
        resolve_target("crane", ["crane", "cat", "Crane"], 3)


def test_the_contact_sheet_takes_any_number_of_any_size():
    def panel(width, height):
        image = Image.new("RGB", (width, height), "red")
        return Panel("a class with a very long name indeed", "output 1.00", (image, image, image))

    narrow = np.asarray(contact_sheet([panel(64, 64)], "one"))
    assert (narrow[:, -MARGIN:] == 255).all()  # nothing is cut off at the right, the words of the scale neither
    bands = [contact_sheet([panel(300, 20), panel(10, 500)] * n, "many").height for n in (4, 5)]
    assert bands[1] > 1.5 * bands[0]  # 8 columns fit; 10 panels make two bands

"""The contact sheet of many pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from relprop.explanations.sheet import MARGIN, Panel, contact_sheet


def test_the_contact_sheet_takes_any_number_of_any_size():
    def panel(width, height):
        image = Image.new("RGB", (width, height), "red")
        return Panel("a class with a very long name indeed", "output 1.00", (image, image, image))

    narrow = np.asarray(contact_sheet([panel(64, 64)], "one"))
    assert (narrow[:, -MARGIN:] == 255).all()  # nothing is cut off at the right, the words of the scale neither
    bands = [contact_sheet([panel(300, 20), panel(10, 500)] * n, "many").height for n in (4, 5)]
    assert bands[1] > 1.5 * bands[0]  # 8 columns fit; 10 panels make two bands

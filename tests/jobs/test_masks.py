"""Masks of samples: found by name, resized as pictures are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relprop.errors import ImageError
from relprop.jobs.masks import Masks, mask_of, name_of
from relprop.models import Preprocess, load_model


@pytest.fixture
def loaded():
    """A model that takes pictures of 8 by 8, cut from the middle of 8 by 12."""
    return replace(load_model("demo"), preprocess=Preprocess(crop=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3))


def write(path: Path, columns: int) -> None:
    """A mask of 8 by 12, white in its first columns."""
    values = np.zeros((8, 12), np.uint8)
    values[:, :columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_a_mask_is_cut_as_its_picture_is(loaded, tmp_path):
    write(tmp_path / "a.png", 5)
    mask = mask_of(loaded, tmp_path, "a", (8, 8))
    assert mask[:, :3].all()  # two columns are cut off on either side
    assert not mask[:, 3:].any()
    assert not mask_of(loaded, tmp_path, "b", (8, 8)).any()
    with pytest.raises(ImageError, match=r"a.png is \(8, 8\) where the picture is \(9, 9\)"):
        mask_of(loaded, tmp_path, "a", (9, 9))


def test_rows_are_those_of_the_samples(loaded, tmp_path):
    write(tmp_path / "x" / "1.bmp", 12)
    write(tmp_path / "3.jpg", 12)
    write(tmp_path / "other.png", 12)
    masks = Masks(loaded, tmp_path, ["x/0.png", "x/1.jpeg", "2.png", "3.png"])
    assert masks.rows(0, (4, 8, 8)).flatten(1).any(1).tolist() == [False, True, False, True]
    assert masks.rows(3, (3, 8, 8)).flatten(1).all(1).tolist() == [True, False, False]
    assert torch.equal(masks.rows(1, (2, 8, 8)), masks.rows(0, (4, 8, 8))[1:3])


def test_what_they_were_is_known_by_a_digest(loaded, tmp_path):
    write(tmp_path / "1.bmp", 3)
    digest = Masks(loaded, tmp_path, ["1.png"]).digest
    write(tmp_path / "other.png", 3)  # of no sample
    assert Masks(loaded, tmp_path, ["1.png"]).digest == digest
    write(tmp_path / "2.bmp", 3)
    assert Masks(loaded, tmp_path, ["1.png", "2.png"]).digest != digest
    size = (tmp_path / "1.bmp").stat().st_size
    write(tmp_path / "1.bmp", 4)
    assert (tmp_path / "1.bmp").stat().st_size == size
    assert Masks(loaded, tmp_path, ["1.png"]).digest != digest
    with pytest.raises(ImageError, match="has no mask for any sample"):
        Masks(loaded, tmp_path, ["9.png"])


@pytest.mark.parametrize(
    ("key", "name"), [("a/b.png", "a/b"), ("b.v2.JPG", "b.v2"), ("data.parquet#3", "data.parquet#3")]
)
def test_names_are_without_the_ending_of_a_picture(key, name):
    assert name_of(key) == name

"""From picture files to a model's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import torchvision_shim

from relprop.errors import ImageError, ModelError
from relprop.models import Preprocess, open_picture

needs_torchvision = pytest.mark.skipif(not torchvision_shim.install(), reason="torchvision is not installed")


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (300, 200), Image.Resampling.BICUBIC
    )


# --- preprocessing ---


@needs_torchvision
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (90, 400), (257, 256)])
@pytest.mark.parametrize("name", ["resnet18", "swin_v2_t"])  # bilinear; bicubic
def test_preprocessing_equals_torchvision(photograph, name, size):
    from torchvision.models import get_model_weights

    from relprop.models.sources.from_torchvision import _preprocess

    weights = get_model_weights(name).DEFAULT
    image = photograph.resize(size)
    torch.testing.assert_close(_preprocess(weights)(image)[0], weights.transforms()(image), rtol=0, atol=1e-6)


def test_the_picture_is_what_the_input_shows(photograph):
    preprocess = Preprocess(resize=64, crop=(48, 40), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    picture, x = preprocess.picture(photograph), preprocess(photograph)
    assert picture.size == (40, 48)
    assert x.shape == (1, 3, 48, 40)
    shown = (x * torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) * 255
    np.testing.assert_allclose(shown[0].permute(1, 2, 0).numpy(), np.asarray(picture), atol=1e-3)


def test_low_and_high_are_black_and_white():
    preprocess = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    for bound, name in ((preprocess.low, "black"), (preprocess.high, "white")):
        assert bound.shape == (1, 3, 1, 1)
        torch.testing.assert_close(bound.expand(1, 3, 2, 2), preprocess(Image.new("RGB", (2, 2), name)))


def test_grey_models_get_grey_pictures(photograph):
    assert Preprocess(mean=(0.5,), std=(0.5,))(photograph).shape == (1, 1, 200, 300)


def test_a_picture_smaller_than_the_crop_gets_a_black_border():
    picture = np.asarray(Preprocess(crop=(4, 4)).picture(Image.new("RGB", (2, 2), "white")))
    assert picture[..., 0].tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("before", "size", "resize", "crop"),
    [
        (Preprocess(resize=256, crop=(224, 224)), 112, 128, (112, 112)),  # the proportion 256 / 224 stays
        (Preprocess(resize=(224, 224)), 96, (96, 96), None),
        (Preprocess(), 96, 96, (96, 96)),
        (Preprocess(crop=(32, 32)), 16, 16, (16, 16)),
    ],
)
def test_another_size(before, size, resize, crop, photograph):
    after = before.override(size=size)
    assert (after.resize, after.crop) == (resize, crop)
    assert after(photograph).shape == (1, 3, size, size)


def test_another_mean_and_deviation():
    before = Preprocess(resize=8, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert before.override() == before
    assert before.override(mean=[0.5]).mean == (0.5, 0.5, 0.5)
    assert before.override(std=[0.1, 0.2, 0.3]).std == (0.1, 0.2, 0.3)
    assert before.override(std=[0.5]).mean == before.mean


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5,)}, "1 means but 3 standard deviations"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "not 2"),
        ({"std": (1.0, 0.0, 1.0)}, "must be positive"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'"),
        ({"resize": 0}, "sizes must be positive"),
        ({"crop": (8, -1)}, "sizes must be positive"),
    ],
)
def test_impossible_preprocessing(fields, message):
    with pytest.raises(ModelError, match=message):
        Preprocess(**fields)


# --- picture files ---


def test_pictures_are_upright(tmp_path):
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees, clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_picture(tmp_path / "turned.png")
    assert opened.size == (2, 3)
    assert opened.getpixel((1, 0)) == (255, 255, 255)


def test_transparency_lies_on_white(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "grey.png")
    for name in ("clear.png", "grey.png"):
        assert open_picture(tmp_path / name).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_brightness(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65280, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    opened = open_picture(tmp_path / "deep.png")
    assert [opened.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (100,) * 3, (254,) * 3, (255,) * 3]


def test_files_that_are_no_pictures(tmp_path, photograph):
    photograph.save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("half.png", "not a readable picture"),
        ("text.png", "not a readable picture"),
        ("none.png", "no such file"),
        ("", "a folder"),
    ):
        with pytest.raises(ImageError, match=message):
            open_picture(tmp_path / name)

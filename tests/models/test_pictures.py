"""Picture files as people have them: other numbers than bytes, damaged ones, and ones that are no pictures."""

from __future__ import annotations

import io
import os
import random
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relprop.errors import ImageError
from relprop.models import Preprocess, open_picture

SLOWEST = 20.0  # seconds for one file, on a busy machine
RAMP = np.linspace(0, 1, 256)[None].repeat(4, 0)  # byte i in column i
BYTES = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)


def grey(path: Path) -> np.ndarray:
    return np.asarray(open_picture(path))[..., 0]


# What numbers mean.


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize(("bits", "warned"), [(12, True), (16, False)])
def test_grey_of_more_bits(name: str, bits: int, warned: bool, tmp_path: Path):
    Image.fromarray((RAMP * (2**bits - 1)).round().astype(np.uint16)).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = grey(tmp_path / name)
    assert np.abs(found.astype(int) - BYTES).max() <= 1  # rounded twice
    assert [f"taken for a picture of {bits} bits" in str(each.message) for each in said] == [True] * warned


def test_a_dark_picture_of_12_bits_whose_file_says_so(tmp_path: Path):
    """The highest number that a TIFF may state is 4095; the picture has none above 100."""
    image = Image.fromarray((RAMP * 100).round().astype(np.uint16))
    image.save(tmp_path / "a.tif", tiffinfo={281: 4095})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grey(tmp_path / "a.tif").max() == round(100 / 4095 * 255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP.astype(np.float32), BYTES),
        ((RAMP * 255).astype(np.float32), BYTES),
        (BYTES.astype(np.int32), BYTES),
        ((RAMP * 65535).round().astype(np.int32), BYTES),
        (np.zeros((4, 256), np.float32), 0 * BYTES),
        (np.zeros((4, 256), np.uint16), 0 * BYTES),
    ],
)
def test_other_numbers(values: np.ndarray, expected: np.ndarray, tmp_path: Path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(grey(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[-1.0, 1.0]], "from -1 to 1"),
        ([[0.0, 300.0]], "from 0 to 300"),
        ([[0.0, float("nan")]], "NaN or infinite"),
        ([[0.0, float("inf")]], "NaN or infinite"),
    ],
)
def test_numbers_without_a_meaning_are_refused(values: list[list[float]], message: str, tmp_path: Path):
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=message):
        open_picture(tmp_path / "a.tif")


# What is no picture.


def test_programs_and_names_that_lead_nowhere(tmp_path: Path):
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run showpage\n%%EOF\n")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("a.eps", "not a readable picture"),
        ("loop.png", "no such file"),
        ("pipe.png", "no such file"),
        ("a\0b.png", "no such file"),
        ("x" * 5000, "no such file"),
    ):
        with pytest.raises(ImageError, match=message):
            open_picture(tmp_path / name)


def test_pictures_that_grow_are_refused(tmp_path: Path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 50 kB; 1.2 GB as RGB
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(ImageError, match="decompression bomb"):
        open_picture(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="a picture of 3 x 4000 would become one of 256 x 341333"):
        Preprocess(resize=256, crop=(224, 224))(Image.new("RGB", (3, 4000)))


# Thousands of damaged pictures: read or refused, at once.


def originals() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    kinds = {
        "png": (rgb, {}), "jpeg": (rgb, {"exif": exif}), "gif": (rgb.convert("P"), {}), "bmp": (rgb, {}),
        "tiff": (Image.fromarray(rng.integers(0, 4096, (9, 9), dtype=np.uint16)), {"compression": "tiff_lzw"}),
        "webp": (rgb.convert("RGBA"), {}), "ppm": (rgb, {}), "ico": (rgb, {}), "tga": (rgb, {}),
    }  # fmt: skip
    found = {}
    for kind, (image, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[kind] = buffer.getvalue()
    return found


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_pictures(number: int, tmp_path: Path):
    rng, files = random.Random(number), originals()
    outcomes = {"read": 0, "refused": 0}
    for i in range(number):
        kind = rng.choice(list(files))
        file = tmp_path / f"{i % 10}.{rng.choice((kind, kind, 'png'))}"
        file.write_bytes(_damaged(files[kind], rng))
        started = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert open_picture(file).mode == "RGB"
            outcomes["read"] += 1
        except ImageError as error:
            outcomes["refused" if str(file) in str(error) else "without a name"] += 1
        assert time.monotonic() - started < SLOWEST
    assert min(outcomes.values()) > number / 20


def _damaged(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 10))):
        changed[rng.randrange(min(len(changed), rng.choice((30, len(changed)))))] = rng.choice(
            (0, 1, 255, rng.randrange(256))
        )
    cut = rng.randrange(len(changed)) if rng.random() < 0.2 else len(changed)
    return bytes(changed[:cut])


# Never black in silence.


def png(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16 bits in each colour, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_12_bits_in_16_are_not_black_in_silence(channels: int, tmp_path: Path) -> None:
    values = np.stack([(RAMP * 4095).round().astype(np.uint16)] * 3 + [np.full((4, 256), 65535, np.uint16)], -1)
    with pytest.warns(UserWarning, match="no number above 4095 of 65535, and is read as a nearly black picture"):
        open_picture(png(tmp_path / "a.png", values[..., :channels]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = open_picture(png(tmp_path / "b.png", np.stack([(RAMP * 65535).round().astype(np.uint16)] * 3, -1)))
    assert np.abs(np.asarray(full)[..., 0].astype(int) - BYTES).max() <= 1


def test_of_a_stack_the_first_is_read_and_said(tmp_path: Path) -> None:
    first, other = (Image.new("L", (3, 2), grey) for grey in (10, 200))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[other, other])
    with pytest.warns(UserWarning, match="holds 3 pictures, of which the first is read"):
        assert grey(tmp_path / "a.tif").max() == 10


def test_pictures_as_printers_and_phones_write_them(tmp_path: Path) -> None:
    """CMYK, a palette with a transparent colour, alpha, and a picture that lies on its side."""
    ramp = Image.fromarray(np.stack([BYTES] * 3, -1))
    ramp.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(grey(tmp_path / "cmyk.jpg").astype(int) - BYTES).max() <= 4
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert np.asarray(open_picture(tmp_path / "p.png")).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png").tolist() == [[255]]
    exif = Image.Exif()
    exif[274] = 6
    ramp.save(tmp_path / "side.jpg", exif=exif)
    assert open_picture(tmp_path / "side.jpg").size == (4, 256)

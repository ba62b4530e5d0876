"""Picture files, read as viewers show them."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import ImageError, MissingExtraError
from relprop.models.dicom import SUFFIXES, is_dicom, open_dicom

if TYPE_CHECKING:
    from PIL.Image import Image

NO_PICTURES = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS")
"""What Pillow opens and relprop does not: PostScript, a program that Ghostscript would run; films, and measurements."""

BITS_TAG, HIGHEST_TAG = 258, 281  # of TIFF: BitsPerSample and MaxSampleValue
TIFF = (".tif", ".tiff")
SIXTEEN = 2**16 - 1  # what Pillow fills in for the latter


def open_picture(path: str | Path) -> Image:
    """Read and decode a picture as viewers show it: upright by its EXIF orientation, transparency on white.

    Grey numbers of another kind are scaled to bytes: from 0 to 1, or with as many bits as the file says. Where it says
    16 and no number needs more than 8 or 12, as cameras and scanners write, these are taken, with a warning. DICOM
    files are seen through the window that they name. Of several pictures in a TIFF the first is read, with a warning.

    Raises:
        ImageError: there is no such file, it is not a whole picture, or nothing says what its numbers mean.
        MissingExtraError: Pillow is not installed, or for DICOM files pydicom.
    """
    _pillow()
    path = Path(path)
    if os.path.isdir(path):
        raise ImageError(f"{path}: a folder, not a picture")
    if not os.path.isfile(path):  # False, too, for links in a circle, null bytes and names that are too long
        raise ImageError(f"{path}: no such file")
    return open_dicom(path) if is_dicom(path) else _decoded(path, path)


def decode_picture(data: bytes, name: str) -> Image:
    """`open_picture` of a file's bytes, which are not in a file of their own.

    Args:
        data: the bytes.
        name: what errors and warnings call it.

    Raises:
        ImageError: it is not a whole picture, or nothing says what its numbers mean.
        MissingExtraError: Pillow is not installed, or for DICOM files pydicom.
    """
    if data[128:132] == b"DICM":
        return open_dicom(Path(name), data)
    return _decoded(BytesIO(data), Path(name))


def _decoded(source: Path | BytesIO, path: Path) -> Image:
    image_module = _pillow()
    try:
        with image_module.open(source, formats=_formats(image_module)) as opened:
            white, cut = _stated(opened), _is_cut(opened)
            if opened.format == "TIFF" and getattr(opened, "n_frames", 1) > 1:
                warnings.warn(f"{path} holds {opened.n_frames} pictures, of which the first is read", stacklevel=3)
            rgb = _rgb(_upright(opened), white, path)
            if cut:
                _warn_of_dark(rgb, path)
            return rgb
    except ImageError:
        raise
    # Broken files raise nearly anything: struct.error, SyntaxError, DecompressionBombError, ...
    except Exception as error:
        hint = "; of a TIFF with floats in colours, or of 64 bits, save bytes" if path.suffix.lower() in TIFF else ""
        said = str(error).replace(repr(source), repr(str(path)))  # of bytes Pillow names their address in memory
        raise ImageError(f"{path} is not a readable picture: {said}{hint}") from error


def picture_suffixes() -> set[str]:
    """How the names of pictures end, in lower case."""
    image_module = _pillow()
    formats = _formats(image_module)
    return {suffix for suffix, kind in image_module.registered_extensions().items() if kind in formats} | {*SUFFIXES}


def _formats(image_module: Any) -> list[str]:
    image_module.init()
    return [name for name in image_module.OPEN if name not in NO_PICTURES]


def _upright(opened: Image) -> Image:
    from PIL import ImageOps

    opened.load()
    upright: Image = ImageOps.exif_transpose(opened)
    return upright


def _rgb(image: Image, white: float | None, path: Path) -> Image:
    image_module = _pillow()
    if _is_deep(image):
        image = image_module.fromarray(_bytes(image, white, path))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = image_module.alpha_composite(image_module.new("RGBA", image.size, "white"), image)
    rgb: Image = image.convert("RGB")
    return rgb


def _is_cut(opened: Image) -> bool:
    """In colours of 16 bits, of which Pillow reads the upper 8."""
    tiles: Any = getattr(opened, "tile", ())
    return opened.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in tiles)


def _warn_of_dark(rgb: Image, path: Path) -> None:
    highest = max(high for _, high in rgb.getextrema())  # type: ignore[misc]
    if 0 < highest < 16:
        warnings.warn(
            f"{path} has 16 bits in each colour, but no number above {256 * highest + 255} of 65535, and is read as a "
            "nearly black picture. If its numbers have 12 bits, save it with 8 bits per channel",
            stacklevel=4,
        )


def _is_deep(image: Image) -> bool:
    """Grey, in other numbers than bytes."""
    return image.mode == "F" or image.mode.startswith("I")


def _bytes(image: Image, white: float | None, path: Path) -> NDArray[np.uint8]:
    """`255 v / white`, rounded."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{path} has numbers that are NaN or infinite, so it is no picture")
    low, high = float(values.min()), float(values.max())
    white = _guessed(image.mode, high, path) if white is None else white
    if low < 0 or high > white:
        raise ImageError(
            f"{path} has numbers from {low:g} to {high:g}, and nothing says which of them are black and white: save it "
            "with 8 bits per channel"
        )
    scaled: NDArray[np.uint8] = (values * (255 / white)).round().astype(np.uint8)
    return scaled


def _stated(opened: Image) -> float | None:
    """Which number is white, where a TIFF says so: by its highest number, or by other bits than 16 and 32."""
    tags: Any = getattr(opened, "tag_v2", {})
    highest, bits = (_first(tags.get(tag)) for tag in (HIGHEST_TAG, BITS_TAG))
    if opened.mode == "F" or not (highest or bits):
        return None
    if highest in (None, 0, SIXTEEN):
        return None if bits in (None, 16, 32) else float(2 ** int(bits) - 1)
    return float(highest)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _guessed(mode: str, high: float, path: Path) -> float:
    """Which number is white, by the highest one."""
    if mode == "F":
        return 1.0 if high <= 1 else 255.0
    bits = 16 if high == 0 else next((bits for bits in (8, 12, 16) if high < 2**bits), 16)
    if bits < 16 and mode.startswith("I;16"):
        warnings.warn(
            f"{path} has 16 bits, but no number above {high:g}: it is taken for a picture of {bits} bits. If it is a "
            "dark one, save it with 8 bits per channel",
            stacklevel=2,
        )
    return float(2**bits - 1)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"reading pictures needs Pillow: pip install 'relprop[images]' ({error})") from error
    return Image

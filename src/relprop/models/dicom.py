"""DICOM files as pictures: through the window that they name, as viewers show them."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relprop.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".dcm", ".dicom")
Numbers = NDArray[np.float64]


def is_dicom(path: Path) -> bool:
    """By its name, or by the four letters behind its preamble."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open_dicom(path: Path, data: bytes | None = None) -> Image:
    """The picture in a DICOM file, as RGB: its numbers rescaled, seen through its window, and white where it says so.

    Without a window, numbers are stretched from the smallest to the largest, and of several frames the first is read;
    both with a warning.

    Args:
        path: of the file.
        data: its bytes, where it is no file of its own.

    Raises:
        ImageError: it is not a whole file, or has no picture.
        MissingExtraError: pydicom is missing, or what unpacks this file's compression.
    """
    from PIL import Image as image_module

    pydicom = _pydicom()
    try:
        file = pydicom.dcmread(path if data is None else BytesIO(data), force=True)
        if "PixelData" not in file:
            raise ImageError(f"{path} is a DICOM file without a picture, or torn")
        if int(file.get("NumberOfFrames") or 1) > 1:
            warnings.warn(f"{path} holds {file.NumberOfFrames} frames, of which the first is read", stacklevel=3)
        pixels = np.asarray(pydicom.pixels.pixel_array(file, index=0))
        shares = _shares(pydicom, file, pixels, path)
    except ImageError:
        raise
    except RuntimeError as error:  # pydicom names the plugins that would unpack it
        raise MissingExtraError(
            f"{path} is compressed: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg ({error})"
        ) from error
    except Exception as error:
        raise ImageError(f"{path} is not a readable DICOM file: {error}") from error
    return image_module.fromarray((255 * shares).round().astype(np.uint8)).convert("RGB")


def _shares(pydicom: Any, file: Any, pixels: NDArray[Any], path: Path) -> Numbers:
    """What of white each number is, (H, W) or (H, W, 3) in [0, 1]."""
    kind = str(file.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, file)
        return np.asarray(pixels / np.iinfo(pixels.dtype).max)
    if pixels.ndim == 3:
        return np.asarray(pixels / (2 ** int(file.BitsStored) - 1))
    values = np.asarray(pydicom.pixels.apply_modality_lut(pixels, file), dtype=np.float64)
    shares = _windowed(pydicom, file, values)
    if shares is None:
        low, high = float(values.min()), float(values.max())
        warnings.warn(
            f"{path} names no window: its numbers from {low:g} to {high:g} are taken for black to white", stacklevel=4
        )
        shares = (values - low) / (high - low or 1.0)
    return 1 - shares if kind == "MONOCHROME1" else shares


def _windowed(pydicom: Any, file: Any, values: Numbers) -> Numbers | None:
    """The numbers through the first window or table of the file, (PS3.3, C.11.2.1); None where it has none."""
    if "VOILUTSequence" in file:
        bits = int(file.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(pydicom.pixels.apply_voi_lut(values.astype(np.int64), file) / (2**bits - 1))
    if file.get("WindowCenter") is None or file.get("WindowWidth") is None:
        return None
    center, width = (float(np.atleast_1d(file[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    function = str(file.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return np.asarray((values > center).astype(np.float64))
    return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise MissingExtraError(f"reading DICOM files needs pydicom: pip install 'relprop[dicom]' ({error})") from error
    return pydicom

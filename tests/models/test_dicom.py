"""DICOM files: the window, both kinds of grey, colours, frames, and what is torn."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from relprop.errors import ImageError, MissingExtraError
from relprop.jobs.picture_plan import _pictures_in
from relprop.models import open_picture, picture_suffixes

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid  # noqa: E402

RAMP = np.arange(256, dtype=np.int16)[None].repeat(4, 0) * 8 - 1024  # Hounsfield units, from air on


def write(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    colours = pixels.ndim == 3 and pixels.shape[-1] == 3
    file.SamplesPerPixel, file.PhotometricInterpretation = (3, "RGB") if colours else (1, "MONOCHROME2")
    if colours:
        file.PlanarConfiguration = 0
    frames = pixels.shape[0] if pixels.ndim == 3 and not colours else 0
    file.Rows, file.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    if frames:
        file.NumberOfFrames = frames
    file.BitsAllocated = file.BitsStored = 8 * pixels.dtype.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(open_picture(path))[0, :, 0]


def test_numbers_are_seen_through_the_window(tmp_path: Path) -> None:
    found = grey(write(tmp_path / "a.dcm", RAMP, WindowCenter=40, WindowWidth=400))
    hounsfield = RAMP[0].astype(float)
    assert (found[hounsfield < -160] == 0).all()
    assert (found[hounsfield > 240] == 255).all()
    middle = np.abs(hounsfield - 40) < 150
    assert np.abs(found[middle] - 255 * ((hounsfield[middle] - 39.5) / 399 + 0.5)).max() <= 0.51
    exact = grey(write(tmp_path / "b.dcm", RAMP, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT"))
    assert np.abs(exact[middle] - 255 * ((hounsfield[middle] - 40) / 400 + 0.5)).max() <= 0.51
    curved = grey(write(tmp_path / "c.dcm", RAMP, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"))
    assert np.abs(curved - 255 / (1 + np.exp(-(hounsfield - 40) / 100))).max() <= 0.51


def test_rescaling_comes_first_and_of_several_windows_the_first_counts(tmp_path: Path) -> None:
    stored = (RAMP + 1024).astype(np.uint16)
    scaled = write(
        tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 500], WindowWidth=[400, 9]
    )
    plain = write(tmp_path / "b.dcm", RAMP, WindowCenter=40, WindowWidth=400)
    assert np.array_equal(grey(scaled), grey(plain))


def test_of_monochrome1_the_highest_number_is_black(tmp_path: Path) -> None:
    tags = {"WindowCenter": 0, "WindowWidth": 1000}
    light = grey(write(tmp_path / "a.dcm", RAMP, **tags))
    dark = grey(write(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **tags))
    assert np.array_equal(light, 255 - dark)
    assert light[0] == 0


def test_without_a_window_the_range_that_was_read_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP)
    with pytest.warns(UserWarning, match=r"names no window: its numbers from -1024 to 1016 are taken"):
        found = np.asarray(open_picture(path))
    assert (found.min(), found.max()) == (0, 255)
    with pytest.warns(UserWarning, match="from 7 to 7"):
        assert np.asarray(open_picture(write(tmp_path / "b.dcm", np.full((2, 2), 7, np.uint16)))).max() == 0


def test_colours_and_frames(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(open_picture(write(tmp_path / "a.dcm", rgb))), rgb)
    film = np.stack([RAMP, -RAMP, RAMP])
    with pytest.warns(UserWarning, match="holds 3 frames, of which the first is read"):
        found = np.asarray(open_picture(write(tmp_path / "b.dcm", film, WindowCenter=0, WindowWidth=2000)))
    assert found.shape == (4, 256, 3)
    assert found[0, 0, 0] < found[0, -1, 0]


def test_files_without_an_ending_are_known_by_their_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "IM000001", RAMP, WindowCenter=40, WindowWidth=400)
    assert grey(path)[-1] == 255
    assert ".dcm" in picture_suffixes()
    (tmp_path / "LICENSE").write_text("no picture")
    (tmp_path / "short").write_bytes(b"\0")
    assert _pictures_in(tmp_path) == [path]  # as a scanner's folder has them


def test_torn_files_and_files_without_a_picture(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.dcm", RAMP, WindowCenter=40, WindowWidth=400).read_bytes()
    torn = tmp_path / "torn.dcm"
    for length in range(0, len(whole) - 1, 37):
        torn.write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError, match=r"without a picture, or torn|not a readable DICOM"):
                open_picture(torn)


def test_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'relprop\[dicom\]'"):
        open_picture(path)

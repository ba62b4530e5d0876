"""The file of an artifact, read as a plain archive: what PyTorch gets of it is a copy that was checked.

`torch.export.load` unpickles objects, loads shared libraries and evaluates texts that lie in a file. So its members are
read here first: tensors as bytes, pickles by the loader that makes tensors only (and written anew), the program
by `vetting`. What has no part in an artifact is refused.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from relprop.analyzers.artifact.metadata import METADATA
from relprop.analyzers.artifact.vetting import vetted
from relprop.errors import ArtifactError, RelpropError

MOST_MEMBERS = 1_000_000
LARGEST_TEXT = 1 << 30  # bytes of one member that is read as a whole
IN_MEMORY = 1 << 26  # bytes of a copy; a larger one lies in a temporary file

HINT = "Artifacts are written by LRP(model, composite).export('model.pt2')."

_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id|\.format/[\w.]+"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+",
    re.ASCII,
)
_PROGRAM = re.compile(
    r"models/model\.json|data/weights/model_weights_config\.json|data/constants/model_constants_config\.json"
    r"|serialized_exported_program\.json",
    re.ASCII,
)
_PICKLED = re.compile(
    r"data/(weights|constants|sample_inputs)/model\.pt|serialized_(state_dict|constants|example_inputs)\.pt", re.ASCII
)
_EXTRA = re.compile(r"(extra|extra_files)/[^/\\\x00-\x1f]{1,200}")
_KEY = re.compile(r"[\w.+:\- ]{1,200}", re.ASCII)


class Archive:
    """An artifact's members by their names inside it, without the folder that PyTorch puts them all in."""

    def __init__(self, file: Path, archive: zipfile.ZipFile) -> None:
        self.file, self._zip = file, archive
        self._root, self._members = _members(archive, file.stat().st_size)

    def metadata(self) -> str:
        """The text that relprop put beside the program.

        Raises:
            ArtifactError: there is none.
        """
        for folder in ("extra", "extra_files"):  # torch 2.6 and 2.7 call it so
            if f"{folder}/{METADATA}" in self._members:
                return self._read(f"{folder}/{METADATA}").decode("utf-8")
        raise ArtifactError(f"{self.file} is no artifact of relprop: nothing in it is called {METADATA}. {HINT}")

    @contextmanager
    def checked(self, operators: Collection[str]) -> Iterator[IO[bytes]]:
        """An archive for PyTorch that holds what this one does, and nothing that could run code.

        Raises:
            ArtifactError: something in it has no part in an artifact.
        """
        small = self.file.stat().st_size <= IN_MEMORY
        with io.BytesIO() if small else tempfile.TemporaryFile() as copy:
            with zipfile.ZipFile(copy, "w") as clean:
                for name in self._members:
                    self._copy(name, clean, operators)
            copy.seek(0)
            yield copy

    def _copy(self, name: str, clean: zipfile.ZipFile, operators: Collection[str]) -> None:
        if _PLAIN.fullmatch(name):
            with (
                self._zip.open(self._members[name]) as source,
                clean.open(self._root + name, "w", force_zip64=True) as to,
            ):
                shutil.copyfileobj(source, to, 1 << 20)
        elif _PROGRAM.fullmatch(name):
            clean.writestr(self._root + name, vetted(self._read(name), name, operators))
        elif _PICKLED.fullmatch(name):
            clean.writestr(self._root + name, _unpickled(self._read(name), name))
        elif not _EXTRA.fullmatch(name):
            raise ArtifactError(f"it holds {name[:80]!r}, which has no part in an artifact")

    def _read(self, name: str) -> bytes:
        if self._members[name].file_size > LARGEST_TEXT:
            raise ArtifactError(f"its {name} is too large")
        return self._zip.read(self._members[name])


@contextmanager
def opened(file: Path) -> Iterator[Archive]:
    """An artifact's file, looked at but not loaded.

    Raises:
        ArtifactError: there is no such file, it is damaged, or something is in it that has no part in an artifact.
    """
    if not os.path.isfile(file):  # False, too, for links in a circle, null bytes and names that are too long
        raise ArtifactError(f"There is no file {file}.")
    if file.suffix != ".pt2":
        raise ArtifactError(f"{file} is no artifact: its name does not end in .pt2. {HINT}")
    try:
        with zipfile.ZipFile(file) as archive:
            yield Archive(file, archive)
    except RelpropError as error:
        said = str(error)
        raise (
            error if str(file) in said else ArtifactError(f"{file} is no artifact that is safe to read: {said}.")
        ) from error
    except Exception as error:  # a damaged archive: BadZipFile, NotImplementedError, EOFError, struct.error, ...
        raise ArtifactError(f"{file} is no artifact, or a damaged one: {error}. {HINT}") from error


def _members(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The folder that all members lie in ("" for none), and the members by their names in it."""
    found = archive.infolist()
    if len(found) > MOST_MEMBERS:
        raise ArtifactError(f"it has {len(found)} members")
    # PyTorch stores without compression: nothing grows, and members that share bytes show by their sum.
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in found):
        raise ArtifactError("its members are compressed or encrypted, and PyTorch does neither")
    if sum(max(member.file_size, member.compress_size) for member in found) > size:
        raise ArtifactError("its members claim to be larger than the file")
    roots = {member.filename.partition("/")[0] + "/" for member in found if "/" in member.filename}
    within = len(roots) == 1 and all(member.filename.startswith(tuple(roots)) for member in found)
    root = roots.pop() if within else ""
    members = {member.filename.removeprefix(root): member for member in found}
    if len(members) != len(found):
        raise ArtifactError("two of its members have one name")
    return root, members


def _unpickled(content: bytes, name: str) -> bytes:
    """The pickled tensors anew, if they are tensors in plain containers."""
    if not content:
        return content
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as inside:
            _members(inside, len(content))  # so that nothing grows here either
    try:
        value = torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"its {name} holds more than tensors, which is read by running code") from error
    _check_plain(value, name)
    again = io.BytesIO()
    torch.save(value, again)
    return again.getvalue()


def _check_plain(value: Any, name: str) -> None:
    if isinstance(value, Mapping):
        for key in value:
            if not (isinstance(key, int) or (isinstance(key, str) and _KEY.fullmatch(key))):
                raise ArtifactError(f"its {name} has the key {str(key)[:60]!r}")
    if isinstance(value, (dict, tuple, list)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_plain(part, name)
    elif not isinstance(value, (Tensor, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size)):
        raise ArtifactError(f"its {name} holds a {type(value).__name__}, not tensors in plain containers")

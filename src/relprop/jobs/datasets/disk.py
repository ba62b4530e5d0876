"""Files that are there whole or not at all, whatever happens to process and machine; and one process a folder."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from relprop.errors import JobError

TEMPORARY = ".writing-"
LOCK = ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place, have the disk confirm it, and move it there in one step.

    Raises:
        JobError: it cannot be written. Nothing is left behind then, and what was there before is still there.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _confirm(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise JobError(
                f"the disk is full: {path.name} ({len(data) / 1e6:.1f} MB) does not fit into {path.parent}. "
                "What was written before is whole; make room and run the same job again, which goes on from there"
            ) from error
        raise JobError(f"{path} cannot be written: {error.strerror}") from error


def remove_leftovers(folder: Path, name: str) -> None:
    """Take away what killed processes were writing when they ended.

    Args:
        folder: that it lies in.
        name: of the files that it was to become, a glob; only one process at a time may write them.
    """
    for path in folder.glob(f"{TEMPORARY}*-{name}"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def locked(folder: Path, share: str | None = None) -> Iterator[None]:
    """One process works in a folder, or one for each share of it. The system lets go when a process ends, however.

    Args:
        folder: is made if it is not there.
        share: of a job that is divided, such as `0/4`. None: the whole folder.

    Raises:
        JobError: another process is at work, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole = open(folder / LOCK, "a+")  # noqa: SIM115, it is open as long as the lock is held
    except OSError as error:
        raise JobError(f"the folder {folder} cannot be made or written to: {error.strerror}") from error
    with whole:
        _lock(whole, folder, shared=share is not None)
        if share is None:
            _sign(whole)
            yield
            return
        with open(folder / f"{LOCK}-{share.replace('/', '-of-')}", "a+") as own:
            _lock(own, folder, shared=False)
            _sign(own)
            yield


def _lock(file: Any, folder: Path, *, shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_on_windows(file, folder)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _in_use(file, folder) from error
        raise JobError(f"{folder} cannot be locked: {error.strerror}") from error


def _lock_on_windows(file: Any, folder: Path) -> None:
    import msvcrt

    try:
        file.seek(1 << 20)  # far behind what is signed, which others read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        raise _in_use(file, folder) from error


def _sign(file: Any) -> None:
    """Say who works here, for the error of whoever comes second."""
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
    file.flush()


def _in_use(file: Any, folder: Path) -> JobError:
    file.seek(0)
    try:
        who = json.loads(file.read())
        said = f"process {who['process']} on {who['host']}"
    except (ValueError, KeyError):
        said = "another process"
    return JobError(
        f"{said} works in {folder}: wait until it ends, give another folder, or divide the job with --shard"
    )


def _confirm(folder: Path) -> None:
    """Have the disk confirm a folder's names, where systems can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

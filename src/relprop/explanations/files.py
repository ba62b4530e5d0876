"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relprop.errors import RelpropError


@contextmanager
def replacing(path: Path, error: type[RelpropError] = RelpropError) -> Iterator[Path]:
    """A path of the same name in a new folder beside `path`; what lies there takes its place if the block succeeds.

    The name is the same because some writers put it into the file. Its rights are those that the user's umask gives,
    whatever the writer chose.

    Args:
        error: what a file that cannot be written raises.

    Raises:
        RelpropError: or `error`, if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".relprop-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            temporary.touch(exist_ok=False)
            rights = temporary.stat().st_mode & 0o777
            yield temporary
            os.chmod(temporary, rights)
            temporary.replace(path)
    except OSError as reason:
        raise error(f"{path} cannot be written: {reason}") from reason

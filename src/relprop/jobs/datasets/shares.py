"""The part of a job that one of several processes does, for Slurm, torchrun and their like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from relprop.errors import JobError


@dataclass(frozen=True)
class Share:
    """Every `count`-th file of results, from number `index` on."""

    index: int = 0
    count: int = 1

    def of(self, shards: int) -> range:
        """The numbers of the files."""
        return range(self.index, shards, self.count)


def share_of(text: str | None) -> Share:
    """The share that `"i/n"` means, i from 0; None: everything.

    Raises:
        JobError: it means none.
    """
    if text is None:
        return Share()
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise JobError(f"shard={text!r}: give i/n, the i-th of n parts, with i from 0 to n - 1")
    return Share(int(match[1]), int(match[2]))

"""Names of the files that a job writes."""

from __future__ import annotations

from pathlib import Path

from relprop.jobs.files import unique_names


def test_names_do_not_collide():
    paths = [Path(name) for name in ("x/a.png", "y/A.jpg", "a-2.png", "b.png", "a.gif")]
    assert unique_names(paths) == ["a", "A-2", "a-2-2", "b", "a-3"]

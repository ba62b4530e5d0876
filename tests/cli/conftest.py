"""What several files of tests of the command line begin with."""

from __future__ import annotations

import pytest
from support.command_line import USERS_FILE


@pytest.fixture
def users_file(tmp_path):
    (tmp_path / "net.py").write_text(USERS_FILE)
    return tmp_path / "net.py"

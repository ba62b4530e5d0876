"""`relprop run` and `relprop merge`, as a user meets them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.jobs import files_of, write_model, write_pictures
from typer.testing import CliRunner

from relprop.cli.app import app

pytest.importorskip("pyarrow")


def relprop(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "250", "FORCE_COLOR": None})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def job(tmp_path):
    source = write_pictures(tmp_path / "pictures", 10)
    sorted(source.rglob("*.png"))[3].write_bytes(b"\x1b[31mno picture")
    lines = {"model": write_model(tmp_path), "source": source, "out": tmp_path / "out"}
    text = "".join(f'{name} = "{value}"\n' for name, value in lines.items())
    (tmp_path / "job.toml").write_text(text + "pass_size = 2\nshard_size = 4\n")
    return tmp_path / "job.toml"


def test_run_says_what_it_did(job, tmp_path):
    said = relprop("run", job).output
    assert "10 samples explained" in said
    assert "failed: left/006.png: left/006.png is not a readable picture" in said
    assert "relprop run JOB.TOML --retry explains them again" in said
    assert f"10 of 10 samples in {tmp_path / 'out'}" in said
    again = relprop("run", job).output
    assert "explained," not in again
    assert "1 samples explained" in relprop("run", job, "--retry").output
    assert relprop("run", job, "-q").output == ""


def test_parts_and_their_merge(job, tmp_path):
    relprop("run", job)
    for i in range(2):
        relprop("run", job, "--shard", f"{i}/2", "--out", tmp_path / f"part{i}")
    said = relprop("merge", tmp_path / "merged", tmp_path / "part0", tmp_path / "part1").output
    assert "10 of 10 samples in" in said
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "out")


def test_a_contest_ends_with_its_ranking(job, tmp_path):
    job.write_text(
        job.read_text() + 'contest = ["zero", "gradient"]\nmetrics = ["srg", "gini"]\nsteps = 2\nkeep = []\n'
    )
    for i in range(2):
        assert "first in" not in relprop("run", job, "--shard", f"{i}/2", "--out", tmp_path / f"part{i}").output
    for said in (relprop("run", job), relprop("merge", tmp_path / "merged", tmp_path / "part0", tmp_path / "part1")):
        assert re.search(r"method +srg +95% interval +behind the first +first in +gini", said.output)
        assert re.search(r"^samples: 9, groups: .*, steps: 2, seed: 0$", said.output, re.MULTILINE)
    assert relprop("run", job, "-q").output == ""


def test_errors_are_one_paragraph(job, tmp_path):
    assert "error: shard='2/2': give i/n" in relprop("run", job, "--shard", "2/2", code=2).output
    assert "cannot be read" in relprop("run", tmp_path / "nothing.toml", code=2).output
    assert "holds no results" in relprop("merge", tmp_path / "a", tmp_path / "b", code=2).output


@pytest.mark.slow
def test_sigterm_ends_a_process_with_143_and_keeps_what_is_done(job, tmp_path):
    write_pictures(tmp_path / "pictures", 4000)
    child = subprocess.Popen([sys.executable, "-m", "relprop.cli", "run", job], stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/part-*")):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    said = child.communicate()[0]
    assert child.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: what was done is written" in said
    assert not list(tmp_path.glob("out/.writing*"))
    relprop("run", job)
    relprop("run", job, "--out", tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")

"""The wheel builds, installs into a clean environment, and explains the samples from there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_what_it_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "relprop/py.typed",
        "relprop/models/demo/data/demo.safetensors",
        "relprop/models/demo/data/demo.json",
    } <= names
    assert any(name.startswith("relprop/models/demo/data/samples/") and name.endswith(".png") for name in names)
    beside = {
        path.relative_to(ROOT / "src").as_posix()
        for kind in ("html", "css", "js")
        for path in (ROOT / "src").rglob(f"*.{kind}")
    }
    assert "relprop/explanations/pages/report.html" in beside
    assert beside <= names  # templates, styles and scripts of pages
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


@pytest.mark.slow
def test_wheel_explains_the_samples(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), f"{wheel}[cli]"], check=True, capture_output=True, cwd=tmp_path
    )
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    command = [str(environment / "bin" / "relprop"), "explain", "--model", "demo", "--out", "pictures"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert "watermark" in done.stdout
    written = {path.suffix for path in (tmp_path / "pictures").rglob("*") if path.is_file()}
    assert {".png", ".safetensors"} <= written

"""What the project says of itself in several files is the same: versions, tools, and how they are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.versions import ROOMS, TESTS, depends_on_versions

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
VERSIONS = ROOT / ".ci" / "versions"
MATRIX = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["versions"]["strategy"]["matrix"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    """Name -> pinned version of each line of a constraints file; None for any."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {name: version for name, _, version in (line.partition("==") for line in lines if line)}


def test_each_environment_has_a_file_a_target_and_a_job():
    files = {file.stem for file in VERSIONS.glob("*.txt")}
    (targets,) = re.findall(r"^VERSIONS := (.*)$", read("Makefile"), re.MULTILINE)
    assert files == set(targets.split()) == {job["versions"] for job in MATRIX["include"]}
    assert {f"test-{name}" for name in files} <= set(re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.M)[0].split())


def test_the_oldest_environment_has_the_lower_bounds_of_the_project():
    project = read("pyproject.toml")
    pinned = pins((VERSIONS / "oldest.txt").read_text())
    bounds = dict(re.findall(r'"(\w+)>=([\d.]+)"', project[: project.index("[dependency-groups]")]))
    assert {"torch", "numpy", "transformers", "onnx"} <= set(bounds)
    for name, bound in bounds.items():
        lowest = [int(part) for part in bound.split(".")]
        found = [int(part) for part in pinned[name].split(".")]
        assert found[: len(lowest)] == lowest, f"{name}>={bound}, but .ci/versions/oldest.txt has {pinned[name]}"
    (python,) = re.findall(r'requires-python = ">=([\d.]+)"', project)
    assert [job["python"] for job in MATRIX["include"] if job["versions"] == "oldest"] == [python]
    assert f"Python {python}" in read("docs/index.md")


@pytest.mark.parametrize("name", ["oldest", "torch29", "transformers4", "newest"])
def test_an_environment_has_its_own_pins_in_the_place_of_the_usual_ones(name: str, tmp_path: Path):
    command = re.search(r"\tawk .* \$< constraints.txt", read("Makefile"))
    assert command
    line = command[0].strip().replace("$$", "$").replace("$<", str(VERSIONS / f"{name}.txt"))
    merged = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    own, usual = pins((VERSIONS / f"{name}.txt").read_text()), pins(read("constraints.txt"))
    assert own.keys() & usual.keys(), "nothing would differ"
    assert pins(merged) == {**usual, **own}
    names = [line.partition("==")[0] for line in merged.splitlines() if line and not line.startswith("#")]
    assert len(names) == len(set(names)), "pip would see two pins"


def test_hooks_check_what_lint_checks():
    """Each tool of `make lint` is a hook, and runs from the environment whose versions are pinned."""
    (lint,) = re.findall(r"^lint: venv\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    wanted = {line.strip().removeprefix("$(BIN)/").replace(" --check", "") for line in lint.splitlines()}
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    assert all(any(entry.startswith(want.removesuffix(" .")) for entry in entries) for want in wanted)
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_the_rooms_of_the_contract_are_those_on_disk():
    """import-linter is told of rooms that exist; the other way round, it checks itself."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is new in Python 3.11")
    import tomllib

    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    assert [contract["type"] for contract in contracts] == ["layers", "layers", "acyclic_siblings"]
    for contract in contracts[:2]:
        assert contract["exhaustive"]
        (container,) = contract["containers"]
        folder = ROOT / "src" / container.replace(".", "/")
        for layer in contract["layers"]:
            for room in layer.split(" | "):
                exists = (folder / room).is_dir() or (folder / f"{room}.py").exists()
                assert exists or room.startswith("("), f"{container}.{room} is not there"


def test_there_is_one_version_number():
    import relprop

    (version,) = re.findall(r'^version = "(.*)"$', read("pyproject.toml"), re.MULTILINE)
    assert relprop.__version__ == version
    assert f"## {version}" in read("CHANGELOG.md")
    for file in (ROOT / "src").rglob("*.py"):
        assert f'"{version}"' not in file.read_text(encoding="utf-8"), f"{file.name} repeats the version"


def test_tests_of_versions_lie_in_rooms_that_are_there():
    for room in ROOMS:
        assert list((TESTS / room).rglob("test_*.py")), room
    assert not depends_on_versions(Path(__file__))


def test_files_and_targets_that_contributing_names_are_there():
    text = read("CONTRIBUTING.md")
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text)) | set(re.findall(r"\]\(([\w/.]+)", text))
    assert len(named) > 30
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]
    targets = set(re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[0].split())
    assert {target.split()[0] for target in re.findall(r"`make ([\w -]+)`", text)} <= targets
    for thing in ("rule", "operator", "rewrite", "composite", "source of models", "target", "analyzer", "metric"):
        (section,) = re.findall(rf"^### An? {thing}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
        assert "src/relprop/" in section
        assert "**Tests**" in section
        assert "**Docs**" in section


def test_names_that_contributing_gives_are_in_the_files_it_gives():
    """`NAME` of `FILE`, and `NAME` in `FILE`, are what the file defines."""
    text = " ".join(read("CONTRIBUTING.md").split())
    for name, file in re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", text):
        assert re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", read(file), re.MULTILINE), f"{name} of {file}"


def test_rooms_that_are_imported_late_are_there_when_asked_for():
    """A process of its own: others have imported them."""
    code = """
import subprocess
import sys
import relprop as rp
assert "relprop.jobs" not in sys.modules and "jobs" in dir(rp)
assert rp.jobs.open is sys.modules["relprop.jobs"].open and rp.models.load_model
try:
    rp.nothing
except AttributeError as error:
    assert "'relprop' has no attribute 'nothing'" in str(error)
else:
    raise AssertionError("nothing is there")
"""
    subprocess.run([sys.executable, "-c", code], check=True)

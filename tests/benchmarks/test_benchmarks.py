"""The benchmark runs, tiny, and writes the page that it promises; what it measures with does what it says."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BASE = "plain gradient"
AGREES = ("VGG16", "ResNet50", "MLP")
"""Cases in which Zennit knows every operator of the model."""


def bench(*arguments: object) -> None:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "bench.py"), "--tiny", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.slow
def test_benchmark_runs_once(module: Any, tmp_path: Path) -> None:
    """One run, looked at from all sides: it is too slow to be repeated by every worker of pytest-xdist."""
    cache, page = tmp_path / "bench.json", tmp_path / "page" / "benchmarks.md"
    bench("--cache", cache, "--write", page)
    results: dict[str, Any] = json.loads(cache.read_text())
    rows = [row | {"case": name} for name, found in results["cases"].items() for row in found["rows"]]
    expected = {(case.name, method) for case in module("cases").CASES for method in case.methods}
    assert {(row["case"], row["method"]) for row in rows} == expected
    check_that_all_ran(rows)
    check_that_missing_ones_say_so(rows)
    check_conservation(rows)
    check_that_zennit_agrees(rows)
    check_growth(results["growth"])
    check_page(page, results)
    again = tmp_path / "again" / "benchmarks.md"
    bench("--only", "--cache", cache, "--write", again)  # nothing measured
    assert again.read_text() == page.read_text()


def check_that_all_ran(rows: list[dict[str, Any]]) -> None:
    own = [row for row in rows if not row["method"].startswith(("LXT", "Captum"))]
    assert [row for row in own if "error" in row] == []
    assert all(row["seconds"] > 0 and row["peak"] >= 0 and row["first"] > 0 for row in own)
    assert {row["ratio"] for row in rows if row["method"] == BASE} == {1.0}


def check_that_missing_ones_say_so(rows: list[dict[str, Any]]) -> None:
    for who, package in (("LXT", "lxt"), ("Captum", "captum")):
        theirs = [row for row in rows if row["method"].startswith(who)]
        assert theirs
        if importlib.util.find_spec(package) is None:
            assert {row["error"] for row in theirs} == {"not installed"}
        else:
            assert all(row.get("error") != "not installed" for row in theirs)
            assert all(("error" in row) != ("seconds" in row) for row in theirs)


def check_conservation(rows: list[dict[str, Any]]) -> None:
    ours = [row for row in rows if row["method"].startswith("relprop")]
    parts = ("relprop EpsilonPlusFlat, CRP", "relprop BiLRP", "relprop BiLRP, a call each")  # of what is explained
    assert all(math.isfinite(row["conservation"]) for row in ours if row["method"] not in parts)
    assert all("conservation" not in row for row in ours if row["method"] in parts)
    # Attention weights and gates are constants and the model has no biases: all relevance arrives.
    llama = next(r for r in ours if r["case"].startswith("Llama") and r["method"] == "relprop CPLRP signal")
    assert llama["conservation"] == pytest.approx(1, abs=1e-4)
    # A gradient is no relevance.
    assert all("conservation" not in row for row in rows if row["method"].startswith("plain"))


def check_that_zennit_agrees(rows: list[dict[str, Any]]) -> None:
    theirs = [row for row in rows if row["method"].startswith("Zennit") and row["case"].startswith(AGREES)]
    assert len(theirs) == 3 * 3 + 1 + 2
    assert all(row["difference"] < 1e-3 for row in theirs)


def check_growth(growth: dict[str, Any]) -> None:
    curves = [found for found in growth.values() if "seconds" in found]
    assert len(curves) == 4
    assert all(len(found["seconds"]) == len(found["values"]) == 2 for found in curves)
    before, after = growth["1,000 calls"]["held"].values()
    assert abs(after - before) < 8
    assert all(seconds["first"] > 0 for seconds in growth["first call"]["first"].values())


def check_page(path: Path, results: dict[str, Any]) -> None:
    page = path.read_text()
    for name, found in results["cases"].items():
        assert f"## {name}\n" in page
        assert all(f"| {row['method']} |" in page for row in found["rows"])
    for name, found in results["growth"].items():
        assert "seconds" not in found or f"by {name} (" in page
    assert f"transformers {version('transformers')}" in page
    assert "## The floor of arithmetic" in page
    assert "### The first call" in page
    assert "### Memory over many calls" in page
    assert (path.parent / "images" / "benchmark_growth.png").read_bytes().startswith(b"\x89PNG")


def test_floor_counts_passes(module: Any) -> None:
    floors = module("floors")
    layers = [floors.Work(100, True, True), floors.Work(300, True, False), floors.Work(50, False, False)]
    # flat 1, z⁺ of inputs nowhere negative 3, ε 2; a gradient: 2 for each
    assert floors.floor(layers, "EpsilonPlusFlat") == (1 * 100 + 3 * 300 + 2 * 50) / (2 * 450)
    # the first layer's inputs have either sign
    assert floors.floor(layers, "EpsilonPlus") == (5 * 100 + 3 * 300 + 2 * 50) / (2 * 450)
    assert floors.floor(layers, "Epsilon") == 1


def test_floor_reads_layers_off_the_model(module: Any) -> None:
    floors, networks = module("floors"), module("networks")
    mlp = floors.work(networks.mlp(20, 16, 10, batch=4)("cpu"))
    assert mlp == [
        floors.Work(2 * 4 * 20 * 16, is_convolution=False, signed=True),
        floors.Work(2 * 4 * 16 * 10, is_convolution=False, signed=False),
    ]


def test_slow_methods_get_fewer_rounds(module: Any) -> None:
    measure = module("measure")
    settings = measure.Settings(rounds=5, budget=40, slow=20)
    assert measure.how_many(0.1, 10, settings) == 5
    assert measure.how_many(1.3, 10, settings) == 3
    assert measure.how_many(10, 10, settings) == 2
    assert measure.how_many(21, 1, settings) == 2


def test_methods_take_turns(module: Any) -> None:
    measure = module("measure")
    turns: list[str] = []

    class Scripted:
        def __init__(self, name: str, seconds: list[float | None]) -> None:
            self.name, self.seconds = name, seconds

        def send(self, command: str, path: str = "") -> None:
            turns.append(self.name)

        def receive(self) -> dict[str, Any]:
            seconds = self.seconds.pop(0)
            return {"error": "out of memory"} if seconds is None else {"seconds": seconds}

    workers = {"a": Scripted("a", [1, 5, 3]), "b": Scripted("b", [2, None]), "c": Scripted("c", [30, 10])}
    found = measure.timed(workers, measure.Settings(rounds=3, budget=100))
    assert "".join(turns) == "abcabca"
    assert found == {
        "a": {"seconds": 3, "rounds": 3},
        "b": {"error": "out of memory"},
        "c": {"seconds": 20, "rounds": 2},
    }


def test_a_process_of_its_own_answers(module: Any, tmp_path: Path) -> None:
    worker, cases = module("worker"), module("cases")
    mlp = next(case.name for case in cases.CASES if case.name.startswith("MLP"))
    apart = worker.Apart(sys.executable, mlp, "input x gradient", "cpu", True)
    try:
        assert worker.ask(apart, "first")["error"].startswith("AssertionError")  # it was not prepared
        assert worker.ask(apart, "prepare") == {}
        assert worker.ask(apart, "first")["first"] > 0
        assert worker.ask(apart, "time")["seconds"] > 0
        assert math.isfinite(worker.ask(apart, "result", str(tmp_path / "r.pt"))["conservation"])
        assert (tmp_path / "r.pt").exists()
    finally:
        apart.end()
    assert "ended" in worker.ask(apart, "time")["error"]


def test_every_process_explains_the_same_model(module: Any) -> None:
    networks = module("networks")
    one, other = (networks.picture(networks.tiny_resnet, 2, 32)("cpu") for _ in range(2))
    assert all(
        a.equal(b) for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )
    assert one.x.equal(other.x)
    assert one.target.equal(other.target)


@pytest.mark.slow
def test_ablations_run_and_change_nothing(tmp_path: Path) -> None:
    page = tmp_path / "ablations.md"
    script = BENCHMARKS / "ablations.py"
    command = [sys.executable, "-W", "ignore", str(script), "--tiny", "--write", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| ") and "with |" not in line]
    differences = {row[1].strip(): float(row[-2]) for row in rows}
    assert len(differences) == 10
    assert differences.pop("batch norms fused") > 1e-3  # canonization changes what is computed
    assert max(differences.values()) <= 1e-5


@pytest.mark.slow
def test_a_first_call_is_measured_next_to_the_export_alone(module: Any) -> None:
    first_call = module("first_call")
    found = first_call.rows(first_call.TINY, 1)
    assert found.keys() == first_call.TINY.keys()
    assert all(row.export > 0 and row.first > 0 for row in found.values())
    assert all(row.second < row.export for row in found.values())  # what was captured is shared

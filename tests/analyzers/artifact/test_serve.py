"""`examples/serve.py` explains where relprop cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import Tokens, ids

from relprop import LRP
from relprop.composites import AttnLRP

ROOT = Path(__file__).parents[3]
WITHOUT_RELPROP = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"relprop", "transformers", "support"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def lrp() -> LRP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LRP(Tokens().eval(), AttnLRP())


@pytest.fixture(scope="module")
def served(lrp: LRP, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = lrp.export(tmp_path_factory.mktemp("serve") / "tokens.pt2", ids(2))
    command = [sys.executable, "-c", WITHOUT_RELPROP, str(ROOT / "examples" / "serve.py"), str(path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=path.parent
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line.startswith("listening on "), line or server.stderr.read()  # type: ignore[union-attr]
            yield line.split()[-1]
        finally:
            server.kill()


def post(url: str, content: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(content).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_answer_is_that_of_the_analyzer(lrp: LRP, served: str):
    for batch, length in ((1, 6), (3, 4)):
        x = ids(batch, length)
        status, found = post(served, {name: tensor.tolist() for name, tensor in x.items()})
        expected = lrp(**x)
        assert status == 200, found
        torch.testing.assert_close(torch.tensor(found["relevance"]), expected.relevance, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.tensor(found["output"]["logits"]), expected.output["logits"])
        assert found["target"] == expected.target.tolist()


def test_what_does_not_fit_is_answered(served: str):
    status, found = post(served, {"input_ids": [[1, 2]]})
    assert (status, "the inputs are" in found["error"]) == (400, True)
    status, found = post(served, {"input_ids": [1, 2], "attention_mask": [1, 1]})
    assert status == 400, found


def test_the_block_holds(tmp_path: Path):
    (tmp_path / "imports.py").write_text("import relprop.analyzers.artifact\n", encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT_RELPROP, str(tmp_path / "imports.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "relprop is blocked" in done.stderr


def test_the_page_shows_the_example():
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert (ROOT / "examples" / "serve.py").read_text(encoding="utf-8") in page

"""Explanations as files: exact, whole, and of data alone."""

from __future__ import annotations

import json
import pickle
import random
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from relprop import LRP, Explanation
from relprop.composites import EpsilonPlus
from relprop.errors import ArtifactError
from relprop.explanations.saved import FORMAT, PLAIN


class Two(nn.Module):
    """Two inputs, one of them token ids, and two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(7, 3)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        joined = torch.cat([self.embedding(ids).mean(1), x], 1)
        return {"logits": self.head(joined), "hidden": joined}


def explained() -> Explanation:
    torch.manual_seed(0)
    call = LRP(Two(), EpsilonPlus(), classes=["a", "b", "</script>"])
    return call(torch.randint(0, 10, (2, 5)), torch.randn(2, 3), target=2, layers=True, activations=True, audit=True)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    expl = explained()
    expl.save(tmp_path / "a.safetensors")
    found = Explanation.load(tmp_path / "a.safetensors")
    for name in (*PLAIN, "relevance", "target", "output", "amount", "given"):
        assert same(getattr(expl, name), getattr(found, name)), name
    assert (found.explains, found.settings, found.classes) == (expl.explains, expl.settings, ["a", "b", "</script>"])
    assert str(found.ledger) == str(expl.ledger)
    for mine, theirs in zip(expl.ledger, found.ledger, strict=True):
        for f in fields(mine):
            assert getattr(mine, f.name) == getattr(theirs, f.name) or f.name == "rule"
    assert found.ledger.imbalance == expl.ledger.imbalance
    assert found.settings["composite"] == "EpsilonPlus()"
    again = tmp_path / "b.safetensors"
    found.save(again)  # what was read can be written: the same tensors, the same words
    assert same(load_file(tmp_path / "a.safetensors"), load_file(again))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_exact_whatever_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    odd = torch.tensor([[0.1, -0.0, 1e-7, float("inf")]], dtype=dtype)
    Explanation(odd, None, {"x": odd}).save(tmp_path / "a.safetensors")
    found = Explanation.load(tmp_path / "a.safetensors")
    assert found.relevance.dtype == dtype
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[odd.element_size()]
    assert torch.equal(found.relevance.view(bits), odd.view(bits))
    assert found.target is None
    assert (found.output, found.amount) == (None, None)


def test_inputs_stay_away_where_they_shall(tmp_path: Path) -> None:
    explained().save(tmp_path / "a.safetensors", inputs=False)
    found = Explanation.load(tmp_path / "a.safetensors")
    assert found.given == {}
    assert not any(t.dtype == torch.int64 and t.shape == (2, 5) for t in load_file(tmp_path / "a.safetensors").values())


def test_views_and_shared_memory_are_written_once_each(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    expl = Explanation(base[:, ::2].T, None, {"x": base[:, ::2].T}, {"a": base, "b": base})
    expl.save(tmp_path / "a.safetensors")
    assert len(load_file(tmp_path / "a.safetensors")) == 3
    assert torch.equal(Explanation.load(tmp_path / "a.safetensors").relevance, base[:, ::2].T)


def test_torn_files_give_one_clear_error(tmp_path: Path) -> None:
    explained().save(tmp_path / "a.safetensors")
    whole, draws = (tmp_path / "a.safetensors").read_bytes(), random.Random(0)
    torn = tmp_path / "torn.safetensors"
    for length in [0, 1, 7, 8, 9, *(draws.randrange(len(whole)) for _ in range(40)), len(whole) - 1]:
        torn.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="torn"):
            Explanation.load(torn)
    head = int.from_bytes(whole[:8], "little")
    for _ in range(200):  # bytes of the header that have changed: read, or refused
        broken = bytearray(whole)
        broken[draws.randrange(8, 8 + head)] = draws.randrange(256)
        torn.write_bytes(broken)
        with suppress(ArtifactError):
            assert isinstance(Explanation.load(torn), Explanation)


def test_files_of_others_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"relevance": torch.ones(2)}, path, {"relprop": "0.1.0"})
    with pytest.raises(ArtifactError, match="holds tensors, but no explanation"):
        Explanation.load(path)
    save_file({"0": torch.ones(2)}, path, {"format": FORMAT, "version": "99", "explanation": "{}"})
    with pytest.raises(ArtifactError, match="version 99 of the format"):
        Explanation.load(path)
    for text in ("{}", "[]", "no json", json.dumps({"relevance": {"tensor": "7"}})):
        save_file({"0": torch.ones(2)}, path, {"format": FORMAT, "version": "1", "explanation": text})
        with pytest.raises(ArtifactError, match="torn"):
            Explanation.load(path)
    path.write_bytes(pickle.dumps(explained().relevance))
    with pytest.raises(ArtifactError, match="no explanation, or a torn one"):
        Explanation.load(path)
    with pytest.raises(ArtifactError, match=r"cannot be read"):
        Explanation.load(tmp_path / "missing.safetensors")


def test_what_no_file_can_hold_and_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written"):
        explained().save(tmp_path / "file" / "a.safetensors")
    odd = Explanation(torch.ones(1), None, _outputs=lambda: {"state": object()})
    with pytest.raises(ArtifactError, match=r"output\['state'\] holds a object"):
        odd.save(tmp_path / "odd.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_pickles_keep_what_was_explained_and_leave_the_model_behind() -> None:
    expl = explained()
    assert expl.origin is not None
    assert expl.origin.ask(0, layers=["head"]).layers.keys() == {"head"}
    found = pickle.loads(pickle.dumps(expl))
    assert found.origin is None
    assert same(dict(expl.given), dict(found.given))
    assert found.settings == expl.settings

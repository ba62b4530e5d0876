"""The store of reference samples: a total order, so that parts and orders do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relprop.concepts import tensors as room
from relprop.concepts.store import Batch, Store
from relprop.errors import InputError

N, F = 60, 3


def batch(seed: int = 0, n: int = N) -> Batch:
    """Scores with many ties, three classes and samples without one."""
    g = torch.Generator().manual_seed(seed)
    score = torch.randint(-3, 4, (n, F), generator=g) / 2
    return Batch(
        score, torch.randint(0, 9, (n, F), generator=g), torch.arange(n), torch.randint(-1, 3, (n,), generator=g)
    )


def new(**fingerprint: str) -> Store:
    return Store({"model": "m", "dataset": "d", **fingerprint}, k=7, per_class=4)


def one_pass() -> Store:
    return new().added(batch())


@pytest.mark.parametrize("seed", range(8))
def test_any_split_in_any_order_is_one_pass_byte_for_byte(seed: int, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, 5, (N,), generator=g)
    parts = []
    for p in range(5):
        rows = (owner == p).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=g)]
        part = new()
        for some in rows.split(4):
            part = part.added(batch().rows(some))
        parts.append(part)
    while len(parts) > 1:  # as a tree that is drawn at random
        i, j = torch.randperm(len(parts), generator=g)[:2].tolist()
        merged = parts[i].merged(parts[j])
        parts = [part for k, part in enumerate(parts) if k not in (i, j)] + [merged]
    one_pass().save(tmp_path / "one")
    parts[0].save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert parts[0].seen == ((0, N - 1),)


def test_the_order_is_score_then_sample() -> None:
    found, given = one_pass(), batch()
    for f in range(F):
        rows = sorted(range(N), key=lambda i: (-float(given.score[i, f]), i))[:7]
        assert found.top.sample[f].tolist() == rows
        assert found.top.score[f].tolist() == given.score[rows, f].tolist()
        assert found.top.neuron[f].tolist() == given.neuron[rows, f].tolist()
        assert found.top.label[f].tolist() == given.label[rows].tolist()


def test_statistics_are_means_of_each_classs_highest() -> None:
    found, given = one_pass().statistics(1), batch()
    means = {c: float(given.score[given.label == c, 1].sort(descending=True).values[:4].mean()) for c in range(3)}
    assert dict(found) == pytest.approx(means)
    assert [mean for _, mean in found] == sorted(means.values(), reverse=True)
    few = new().added(batch().rows(torch.arange(2)))
    assert all(mean > -10 for _, mean in few.statistics(0)), "places that are empty count"


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "store.safetensors"
    half = new().added(batch().rows(torch.arange(0, N, 2)))
    half.save(file)
    resumed = Store.load(file).added(batch().rows(torch.arange(1, N, 2)))
    resumed.save(file)
    one_pass().save(tmp_path / "one")
    assert file.read_bytes() == (tmp_path / "one").read_bytes()
    assert half.seen[:2] == ((0, 0), (2, 2))
    new().save(file)
    assert Store.load(file).count == 0


def test_a_write_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "store.safetensors"
    one_pass().save(file)
    before = file.read_bytes()

    class Full:
        class torch:
            @staticmethod
            def save_file(tensors: object, path: Path, metadata: object) -> None:
                path.write_bytes(b"half")
                raise OSError("disk full")

    monkeypatch.setattr(room, "_safetensors", Full)
    with pytest.raises(InputError, match="disk full"):
        new().save(file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"different dataset do not mix \(dataset: 'd' here, 'other' there\)"):
        one_pass().merged(new(dataset="other"))
    with pytest.raises(InputError, match="different model and dataset"):
        one_pass().merged(new(dataset="other", model="n"))
    with pytest.raises(InputError, match="different k do"):
        one_pass().merged(Store(one_pass().fingerprint, k=8, per_class=4))
    with pytest.raises(InputError, match="Sample 3 was added before"):
        one_pass().merged(new().added(batch().rows(torch.tensor([3]))))
    bad = batch()
    bad.score[5, 1] = torch.nan
    with pytest.raises(InputError, match=r"samples \[5\] are not finite"):
        new().added(bad)
    (tmp_path / "text").write_text("no store")
    for name in ("text", "nothing"):
        with pytest.raises(InputError, match="is no file of relprop"):
            Store.load(tmp_path / name)

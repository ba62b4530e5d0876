"""A job over a dataset: what it writes, and that nothing but the job changes a byte of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import BROKEN, COUNT, PASS, SHARD, files_of, write_model, write_pictures

import relprop.jobs
from relprop import LRP
from relprop.composites import EpsilonGammaFlat
from relprop.errors import JobError, RelpropError
from relprop.models import load_model, open_picture

pytest.importorskip("pyarrow")

SLOW = pytest.mark.slow


def test_rows_are_what_the_analyzer_says(job, model, pictures, tmp_path):
    finished = job(keep=("heatmap", "scores", "relevance"))
    found = relprop.jobs.open(tmp_path / "out")
    assert (finished.done, finished.total, finished.explained, finished.stopped) == (COUNT, COUNT, COUNT, None)
    loaded = load_model(model)
    lrp = LRP(loaded.model, EpsilonGammaFlat())
    for i, path in enumerate(sorted(pictures.rglob("*.png"))):
        row = found[i]
        assert (row["index"], row["key"], row["label"]) == (i, f"{path.parent.name}/{path.name}", path.parent.name)
        if i == BROKEN:
            assert "not a readable picture" in row["error"]
            assert row["heatmap"] is None
            continue
        expl = lrp(loaded.preprocess(open_picture(path)), layers=["2"])
        r = expl.relevance[0]
        torch.testing.assert_close(torch.tensor(row.relevance), r, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(row.heatmap), r.sum(0), atol=1e-3 * float(r.sum(0).abs().max()), rtol=0)
        torch.testing.assert_close(torch.tensor(row.scores("2")), expl.layers["2"][0].sum((1, 2)), atol=1e-6, rtol=1e-5)
        assert row["target"] == row["prediction"] == int(expl.target)
        assert row["amount"] == pytest.approx(float(expl.output[0].max()), rel=1e-5)
        assert row["arrived"] == pytest.approx(float(r.sum()), rel=1e-4)
        assert row["arrived"] + row["kept"] == pytest.approx(1 if row["amount"] > 0 else -1)
        assert row["top_class"].tolist() == expl.output[0].argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("batch_size", "workers"), [(7, 3), pytest.param(1, 1, marks=SLOW), pytest.param(64, 2, marks=SLOW)]
)
def test_reading_ahead_changes_no_byte(job, undisturbed, tmp_path, batch_size, workers):
    job(batch_size=batch_size, workers=workers)
    assert files_of(tmp_path / "out") == undisturbed
    assert list(undisturbed) == ["manifest.json", *(f"part-{i:06d}.parquet" for i in range(4)), "samples.parquet"]


def test_a_sample_has_the_same_bytes_in_whatever_company(job, pictures, tmp_path, undisturbed):
    """The broken one is repaired, and explained alone in a pass of copies."""
    broken = sorted(pictures.rglob("*.png"))[BROKEN]
    broken.write_bytes(sorted(pictures.rglob("*.png"))[0].read_bytes())
    job("repaired from the start")
    broken.write_bytes(b"no picture")
    finished = job()
    assert [(f.index, f.key) for f in finished.failed] == [(BROKEN, f"left/{broken.name}")]
    broken.write_bytes(sorted(pictures.rglob("*.png"))[0].read_bytes())
    with pytest.raises(JobError, match=rf"data.*changed: left/{broken.name}"):
        job()
    finished = job(retry=True)
    assert (finished.explained, finished.failed) == (1, [])
    assert files_of(tmp_path / "out") == files_of(tmp_path / "repaired from the start")


def test_a_retry_that_fails_again_says_so(job, tmp_path, done, undisturbed):
    finished = job(retry=True)
    assert (finished.explained, len(finished.failed)) == (1, 1)
    assert files_of(tmp_path / "out") == undisturbed


def test_a_finished_job_does_nothing(job, tmp_path, done, undisturbed):
    finished = job()
    assert (finished.explained, finished.done) == (0, COUNT)
    assert files_of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_a_signal_keeps_what_is_done(job, tmp_path, undisturbed, number):
    def after_some(progress):
        if progress.done >= SHARD + PASS:
            os.kill(os.getpid(), number)

    finished = job(progress=after_some)
    assert finished.stopped == number.name
    assert finished.done == SHARD + PASS
    assert (tmp_path / "out" / "begun-000001.parquet").exists()
    rest = job()
    assert finished.explained + rest.explained == COUNT
    assert files_of(tmp_path / "out") == undisturbed
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_progress_counts(job):
    seen = []
    job(progress=seen.append)
    assert [each.done for each in seen] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(each.total == COUNT and each.rate > 0 and each.left >= 0 for each in seen)
    assert seen[-1].left == 0
    assert seen[-1].failed == 1


# --------------------------------------------------------------------------------------------- refusing to mix


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"composite": "epsilon-plus"}, "composite"),
        pytest.param({"target": "left"}, "target: predicted there, left here", marks=SLOW),
        ({"pass_size": 2}, "pass_size: 4 there, 2 here"),
        pytest.param({"shard_size": 16}, "shard_size: 8 there, 16 here", marks=SLOW),
        ({"dtype": "float64"}, "dtype: float32 there, float64 here"),
        pytest.param({"mean": (0.4,)}, "preprocessing", marks=SLOW),
        pytest.param({"keep": ("scores",)}, "columns", marks=SLOW),
        ({"layers": "0"}, "layers"),
    ],
)
def test_another_job_is_refused(job, tmp_path, done, changed, told):
    before = files_of(tmp_path / "out")
    with pytest.raises(JobError, match=told):
        job(**changed)
    assert files_of(tmp_path / "out") == before


def test_other_weights_are_refused(job, tmp_path):
    model = write_model(tmp_path / "own")
    job(model=model)
    net = tmp_path / "own" / "net.py"
    net.write_text(net.read_text().replace("seed=0", "seed=2"))
    with pytest.raises(JobError, match=r"something else, which do not mix .weights: "):
        job(model=model)


@pytest.mark.parametrize("change", ["new", "changed", "gone"])
def test_other_data_is_refused(job, pictures, done, change):
    first, last = sorted(pictures.rglob("*.png"))[0], pictures / "right" / "zzz.png"
    if change == "gone":
        first.unlink()
    elif change == "changed":
        first.write_bytes(first.read_bytes() + b"\0")
    else:
        last.write_bytes(first.read_bytes())
    named = "right/zzz.png" if change == "new" else "left/000.png"
    with pytest.raises(JobError, match=f"{change}: {named}"):
        job()


def test_a_file_of_the_same_size_is_known_by_its_digest(pictures, tmp_path, done):
    first = sorted(pictures.rglob("*.png"))[0]
    assert relprop.jobs.open(tmp_path / "out").changed(pictures) == []
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert relprop.jobs.open(tmp_path / "out").changed(pictures) == ["left/000.png"]


def test_a_folder_with_other_files_is_refused(job, tmp_path, done):
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(JobError, match=r"holds part-000000.parquet but no manifest.json"):
        job()


def test_a_job_of_nothing_but_errors_is_not_begun(job, pictures):
    with pytest.raises(JobError, match=r"no sample of the first pass.*no class is named 'left'"):
        job(model=job_model_without_classes(pictures.parent), target="label")


def job_model_without_classes(folder: Path) -> str:
    spec = write_model(folder / "plain")
    net = folder / "plain" / "net.py"
    net.write_text(net.read_text().replace('"left", "middle", "right"', '"a", "b", "c"'))
    return spec


def test_the_labels_are_explained(job, tmp_path):
    job(target="label")
    rows = list(relprop.jobs.open(tmp_path / "out"))
    assert {(row["label"], row["target"]) for row in rows if row["error"] is None} == {("left", 0), ("right", 2)}


def test_a_label_that_is_no_class_is_an_error_of_its_row(job, pictures, tmp_path):
    (pictures / "right").rename(pictures / "up")
    finished = job(target="label")
    assert len(finished.failed) == COUNT // 2 + 1
    assert all("no class is named 'up'" in f.error for f in finished.failed if f.index != BROKEN)


@pytest.mark.parametrize(
    "names", [["srg", "gini"], pytest.param(["mean_sensitivity", "emprt"], marks=pytest.mark.slow)]
)
def test_metrics_are_those_of_the_evaluation(model, tmp_path, names):
    source = write_pictures(tmp_path / "few", 4)
    options = {"model": model, "source": source, "metrics": names, "pass_size": 2, "shard_size": 2}
    relprop.jobs.run(**options, out=tmp_path / "out")
    loaded = load_model(model)
    x = torch.cat([loaded.preprocess(open_picture(path)) for path in sorted(source.rglob("*.png"))[:2]])
    found = relprop.evaluate({"LRP": LRP(loaded.model, EpsilonGammaFlat())}, x, None, names, baselines=())
    frame = relprop.jobs.open(tmp_path / "out").pandas()
    for name in names:
        assert len(frame) == frame[f"metric:{name}"].notna().sum() == 4
        np.testing.assert_allclose(frame[f"metric:{name}"][:2], found.scores["LRP"][name], rtol=1e-3, atol=1e-6)
    for i in (1, 0):
        relprop.jobs.run(**options, out=tmp_path / "again", shard=f"{i}/2", batch_size=1)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


def test_pictures_of_several_sizes(tmp_path, pictures):
    spec = write_model(tmp_path / "any")
    net = tmp_path / "any" / "net.py"
    text = net.read_text().replace("resize=8, crop=(8, 8), ", "")
    net.write_text(
        text.replace("nn.Flatten(), nn.Linear(80, 3)", "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)")
    )
    from PIL import Image

    odd = sorted(pictures.rglob("*.png"))[2]
    Image.open(odd).resize((12, 7)).save(odd)
    relprop.jobs.run(model=spec, source=pictures, out=tmp_path / "out", pass_size=PASS, shard_size=SHARD)
    rows = relprop.jobs.open(tmp_path / "out")
    assert [list(rows[i]["shape"]) for i in (1, 2)] == [[3, 9, 10], [3, 7, 12]]
    assert rows[2].heatmap.shape == (7, 12)
    assert np.isfinite(rows[2].heatmap).all()


# ------------------------------------------------------------------------------------------------ what is asked


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"modle": "demo"}, "no option 'modle'; did you mean model"),
        ({"shard_size": 6}, "no multiple of pass_size=4"),
        ({"pass_size": 0}, "whole number from 1 on"),
        ({"keep": ("heat",)}, "keep names 'heat'"),
        ({"metrics": ["mess"]}, "metrics names 'mess'; a job knows srg"),
        ({"engine": "spark"}, "none of local, ray"),
        ({"source": "nowhere"}, "the source nowhere does not exist"),
        ({"layers": ("3.conv",)}, "the layer '3.conv' does not exist"),
        ({"target": "up"}, "no class is named 'up'"),
        ({"target": "label", "against": "rest"}, "leave target='label' out"),
        ({"composite": "best"}, "unknown composite 'best'"),
        ({"shard": "2/2"}, "with i from 0 to n - 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(job, tmp_path, changed, told):
    with pytest.raises(RelpropError, match=told):
        job(**changed)
    assert not (tmp_path / "out").exists() or not files_of(tmp_path / "out")


def test_a_job_from_a_file(model, pictures, tmp_path, undisturbed):
    text = f'model = "{model}"\nsource = "{pictures}"\nout = "elsewhere"\npass_size = {PASS}\nshard_size = {SHARD}\n'
    (tmp_path / "job.toml").write_text(text)
    relprop.jobs.run(tmp_path / "job.toml", out=tmp_path / "out")
    assert files_of(tmp_path / "out") == undisturbed
    (tmp_path / "job.toml").write_text("model = demo")
    with pytest.raises(JobError, match="is no TOML"):
        relprop.jobs.run(tmp_path / "job.toml")

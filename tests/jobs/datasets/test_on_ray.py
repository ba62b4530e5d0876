"""The job on a real local Ray with two workers, one of which is killed: the bytes of the local engine."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.jobs import files_of, write_model, write_pictures

import relprop.jobs
from relprop.errors import MissingExtraError

pytest.importorskip("pyarrow")


def is_worker(place: Path) -> bool:
    """Whether a process of Ray runs our actor, by what Ray calls it."""
    try:
        said = (place / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    return b"ray::" in said and b"ShardWorker" in said


def worker_processes() -> list[int]:
    return [int(place.name) for place in Path("/proc").glob("[0-9]*") if is_worker(place)]


@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(tmp_path):
    ray = pytest.importorskip("ray")
    source = write_pictures(tmp_path / "pictures", 240)
    sorted(source.rglob("*.png"))[13].write_bytes(b"no picture")
    options = {"model": write_model(tmp_path), "source": source, "pass_size": 2, "shard_size": 8}
    relprop.jobs.run(**options, out=tmp_path / "local")
    out = tmp_path / "ray"
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            if len(list(out.glob("part-*"))) >= 3:
                for pid in worker_processes()[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)

    where = os.pathsep.join([str(Path(relprop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": where}})
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    seen = []
    try:
        finished = relprop.jobs.run(**options, out=out, engine="ray", analyzers=2, progress=seen.append)
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert finished.done == finished.total == 240
    assert [failure.index for failure in finished.failed] == [13]
    assert seen[-1].done == 240
    assert files_of(out) == files_of(tmp_path / "local")


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    source = write_pictures(tmp_path / "pictures", 4)
    with pytest.raises(MissingExtraError, match=r"engine='ray' needs ray: pip install 'relprop\[ray\]'"):
        relprop.jobs.run(model=write_model(tmp_path), source=source, out=tmp_path / "out", engine="ray")

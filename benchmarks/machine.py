"""Where, when and with what it was measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from measure import Settings
from worker import versions


def machine(settings: Settings) -> dict[str, Any]:
    """All that the page says about the circumstances."""
    return {
        "processor": torch.cuda.get_device_name() if settings.on_gpu else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "rounds": settings.rounds,
        "versions": versions(),
        "peers": _versions_of(settings.peers),
    }


def processor() -> str:
    """The CPU's own name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions_of(python: str) -> dict[str, str]:
    """In the environment of the other libraries."""
    asked = "import json, worker; print(json.dumps(worker.versions()))"
    here = Path(__file__).parent
    done = subprocess.run([python, "-c", asked], cwd=here, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found

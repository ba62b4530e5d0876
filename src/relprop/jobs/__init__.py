"""Jobs: data in, files out. Everything is checked before anything is written.

    relprop.jobs.run(model="demo", source="pictures", out="found")
    found = relprop.jobs.open("found")

What may live here: plans and their execution. No options of a command line, and no printing.
"""

from relprop.jobs import strategies
from relprop.jobs.datasets.conversion import save_results
from relprop.jobs.datasets.found import Found
from relprop.jobs.datasets.inputs import Samples
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.merging import merge
from relprop.jobs.datasets.opened import Results
from relprop.jobs.datasets.opened import open_results as open
from relprop.jobs.datasets.parts import Failure
from relprop.jobs.datasets.running import run
from relprop.jobs.datasets.work import Finished, Progress

__all__ = [
    "Failure",
    "Finished",
    "Found",
    "Job",
    "Progress",
    "Results",
    "Samples",
    "merge",
    "open",
    "run",
    "save_results",
    "strategies",
]

"""The command line as tests run it, and a file of models as a user has one."""

from __future__ import annotations

from typer.testing import CliRunner

from relprop.cli.app import app
from relprop.models.demo import load_samples

SAMPLES = load_samples()

USERS_FILE = """
import torch
from torch import nn

class EndsInSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3))).softmax(1)

def softmax():
    return EndsInSoftmax()

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def map():
    return nn.Conv2d(3, 2, 3)
"""


def relprop(*args, code=0):
    """Run the command line and check its exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "250", "FORCE_COLOR": None})
    assert result.exit_code == code, result.output
    return result

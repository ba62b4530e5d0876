"""Errors: each names the culprit and says the next step; all derive from `RelpropError`."""

from __future__ import annotations

import sys
import warnings


class RelpropError(Exception):
    """Base of every error that relprop raises on purpose."""


class CaptureError(RelpropError):
    """`torch.export` could not capture the model."""


class UnexplainedError(RelpropError):
    """Relevance would reach an operator that no rule explains."""


class RuleError(RelpropError, ValueError):
    """A rule has impossible parameters, or was given to a layer that it cannot serve."""


class CompositeError(RelpropError, ValueError):
    """A composite does not fit the model: an index out of range, an unknown type, a wrong number of rules."""


class SoftmaxOutputError(RelpropError):
    """The model ends in a softmax: probabilities mix all classes, so logits are what LRP explains."""


class InputError(RelpropError, ValueError):
    """An input has a wrong shape, dtype or device, is empty, or is not finite."""


class TargetError(RelpropError, ValueError):
    """A target does not select anything in the model's output."""


class ArtifactError(RelpropError):
    """An artifact cannot be written, or a file is no artifact that this version can read."""


class ModelError(RelpropError):
    """A model specification, a weights file or a preprocessing does not fit."""


class ImageError(RelpropError, ValueError):
    """A file is not a readable picture, or a relevance tensor cannot be drawn as one."""


class JobError(RelpropError):
    """A job cannot start or go on: its folder holds something else, is in use, or the disk is full."""


class MissingExtraError(RelpropError, ImportError):
    """An optional dependency is missing; the message says how to install it."""


def warn(message: str) -> None:
    """A `UserWarning` at the line that called relprop, however deep inside of it this is.

    Args:
        message: what is said.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "relprop":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)

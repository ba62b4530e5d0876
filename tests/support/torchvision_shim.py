"""Lets `import torchvision` succeed where its compiled operators cannot be loaded.

A torchvision wheel that was built for CUDA cannot load its C++ library beside a CPU-only torch. Then its
import stops at the first operator that it describes in Python, "operator torchvision::nms does not exist".
Models need none of those operators, so for tests it is enough to declare them. Where torchvision works, this
does nothing.
"""

from __future__ import annotations

import importlib

import torch

# The operators that torchvision registers fake kernels for while it is imported.
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# Operators vanish with the library object that defined them, so it must live as long as the process.
_library: torch.library.Library | None = None


def install() -> bool:
    """Import torchvision, declaring the operators that it misses; False where it is not installed."""
    global _library
    try:
        importlib.import_module("torchvision")
        return True
    except ModuleNotFoundError:
        return False
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            _library.define(schema)
    importlib.import_module("torchvision")
    return True

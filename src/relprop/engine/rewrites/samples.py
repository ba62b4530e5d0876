"""Outputs of models that give a single sample's without a dimension for the batch, by `squeeze()`, `[0]` or a mean."""

from __future__ import annotations

from typing import Any

import torch

from relprop.engine.graph.graph import Graph, Node, fake_value, info
from relprop.engine.rewrites.rewriting import insert


def without_batch(output: Any) -> bool:
    """An output of shape () or (C,), where C is known and not 1, has no dimension that could be the batch of one."""
    if not isinstance(output, Node) or not info(output).data:
        return False
    shape = fake_value(output).shape
    return not shape or (len(shape) == 1 and isinstance(shape[0], int) and shape[0] != 1)


def keep_batch(graph: Graph) -> Graph:
    """Give such outputs, which are those of a single sample, a first dimension of 1."""
    for output in dict.fromkeys(filter(without_batch, graph.outputs)):
        kept = insert(graph, graph.output, torch.ops.aten.unsqueeze.default, output, 0, like=output)
        kept.meta["val"] = fake_value(output).unsqueeze(0)
        graph.output.replace_input_with(output, kept)
    return graph

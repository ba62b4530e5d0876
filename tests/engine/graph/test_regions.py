"""Regions with a setting of their own, such as autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.engine.graph.capture import capture


class Region(nn.Module):
    """Regions with a setting of their own, one in the other, one with two results, one that writes in place."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enabled, self.linear = enabled, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        if self.enabled:
            with torch.autocast("cpu", enabled=False):
                a, b = torch.relu_(h * 2), h * 3
                with torch.autocast("cpu", enabled=False):
                    b = self.linear(b)
                b[:, 0] = a[:, 1]
        else:
            a, b = torch.relu_(h * 2), self.linear(h * 3)
            b[:, 0] = a[:, 1]
        return a + b


def test_regions_without_autocast_are_like_any_other() -> None:
    x = torch.randn(2, 3)
    inside, outside = (LRP(Region(enabled))(x, target=0) for enabled in (True, False))
    assert torch.equal(inside.relevance, outside.relevance)
    assert torch.equal(inside.output, outside.output)


def test_a_region_in_a_region_leaves_nothing_behind() -> None:
    """What is left of it counted as a graph that is called, so that single samples were captured anew in each call."""
    x = torch.randn(1, 3)
    graph = capture(Region(True).eval(), (x,))
    assert all(node.op != "get_attr" for node in graph.nodes)
    assert graph.serves([x])

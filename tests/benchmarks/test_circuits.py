"""The page of positions, patching and blocks says what was measured, and its truth is what hooks by hand say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support.torchvision_shim import install
from torch import nn

install()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("circuits_page")


@pytest.fixture
def patching(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("circuits_patching")


class Letters:
    """A tokenizer whose every word is a token."""

    def __call__(self, text: str) -> dict[str, list[str]]:
        return {"input_ids": text.split()}


def test_the_other_one_gives(patching: ModuleType) -> None:
    tasks = importlib.import_module("language_tasks")
    prompt = next(tasks.indirect_objects())
    clean, other = patching.corrupted(Letters(), prompt)
    assert " ".join(clean) == "When Mary and John went to the store, John gave a bottle of milk to"
    assert " ".join(other) == "When Mary and John went to the store, Mary gave a bottle of milk to"


def test_correlations_by_hand(patching: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert patching.pearson(x, 2 * x + 1) == pytest.approx(1)
    assert patching.pearson(x, -x) == pytest.approx(-1)
    assert patching.pearson(x, torch.tensor([1.0, -2.0, 1.0])) == pytest.approx(0)
    assert patching.pearson(x, torch.ones(3)) == 0


def loaded() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                      num_key_value_heads=2, intermediate_size=12, initializer_range=0.3)  # fmt: skip
    whole = transformers.LlamaForCausalLM(config).double().eval()

    class NextToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = whole

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, -1]

    return SimpleNamespace(model=NextToken(), whole=whole)


def test_the_truth_is_one_part_at_a_time(patching: ModuleType) -> None:
    """Against one hook for one part; the gradient agrees where little changes."""
    exact = patching.Exact(loaded())
    clean, other, a, b = [3, 4, 5], [3, 7, 5], 1, 2
    found = exact.effects(clean, other, a, b)
    assert [len(found[kind]) for kind in exact.paths] == [6, 6, 4]
    layer = exact.model.get_submodule("model.model.layers.1.mlp")
    kept: list[torch.Tensor] = []

    def replaced(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(output)
            return output
        return torch.cat([output[:, :2], kept[0][:, 2:]], 1)

    handle = layer.register_forward_hook(replaced)
    with torch.no_grad():
        exact.difference(torch.tensor([other]), a, b)
        by_hand = exact.difference(torch.tensor([clean]), a, b)
        handle.remove()
        by_hand = by_hand - exact.difference(torch.tensor([clean]), a, b)
    assert float(found[patching.MLP_OF][5]) == pytest.approx(float(by_hand), rel=1e-9)
    estimated = patching.by_gradient(exact, clean, other, a, b)
    for kind, effects in found.items():
        assert estimated[kind].shape == effects.shape
        assert patching.pearson(effects, estimated[kind]) > 0.5


def test_the_tables(page: ModuleType) -> None:
    task = {"right": 2, "kept": [0.1, 0.3], "hits": {"m": [True, False]}, "srg": {"m": [1.0, 3.0], "random": [0.5]}}
    found = {
        "positions": {"capitals": task},
        "patching": {"RelP": {"heads": [0.9, 0.7]}},
        "blocks": {"pictures": 5, "scores": {"CP-LRP": {"at the input": (1.0, 0.1), "random": (0.0, 0.2)}}},
    }
    text = page.render(found)
    assert "| m | 1 |" in text
    assert "| share of the amount that positions keep, median | 20% |" in text
    assert "| m | 2.00 ± 1.00 |" in text
    assert "| RelP | 0.80 ± 0.10 |" in text
    assert "| CP-LRP | 1.00 ± 0.10 | 0.00 ± 0.20 |" in text
    assert "5 pictures." in text

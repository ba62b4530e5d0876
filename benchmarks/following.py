"""What it costs to look whether a model has changed, as shares of a call: `python benchmarks/following.py`.

Claim (docs/performance.md): a look at the module tree and at some numbers of each parameter costs less than 2 % of a
call of ResNet-18.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torchvision.models import resnet18
from transformers import LlamaConfig, LlamaForCausalLM

from relprop import LRP
from relprop.analyzers.captures import captures_of
from relprop.engine.graph.fingerprint import fingerprint


def mlp() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers), torch.rand(8, 784)


def resnet() -> tuple[nn.Module, torch.Tensor]:
    return resnet18(), torch.rand(1, 3, 224, 224)


def llama() -> tuple[nn.Module, torch.Tensor]:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, vocab_size=100, **sizes)), torch.arange(32)[None]


def seconds(run: Callable[[], object], times: int) -> float:
    """Median of several runs, after two that do not count."""
    found = []
    for _ in range(times + 2):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return median(found[2:])


def rows(times: int = 15) -> list[tuple[str, float, float, float]]:
    """Name, and seconds: of a call, of the look at modules, of the look at numbers."""
    found = []
    for make in (mlp, resnet, llama):
        model, x = make()
        lrp = LRP(model.eval())
        lrp(x, target=0 if x.is_floating_point() else (-1, 0))
        kept = [c for known in captures_of(model)._known.values() for c in known.captures]
        (shared,) = [s for c in kept for s in c.canonical.values()]
        constants = shared.constants(keep=True)
        whole = seconds(lambda lrp=lrp, x=x: lrp(x, target=0 if x.is_floating_point() else (-1, 0)), times)
        tree = seconds(lambda model=model: fingerprint(model), times)
        numbers = seconds(lambda constants=constants: constants.state() == constants.state(), times) / 2
        found.append((make.__name__, whole, tree, numbers))
    return found


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'model':8} {'call ms':>9} {'modules us':>11} {'numbers us':>11} {'share':>7}")
    for name, whole, tree, numbers in rows():
        print(f"{name:8} {whole * 1e3:9.1f} {tree * 1e6:11.0f} {numbers * 1e6:11.0f} {(tree + numbers) / whole:7.1%}")


if __name__ == "__main__":
    main()

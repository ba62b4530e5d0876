"""Activation patching of a language model by hooks, which relevance patching is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from language_tasks import Prompt
from torch import Tensor, nn

MLP_OF, ATTENTION_OF, HEADS_OF = "feed-forward outputs at tokens", "attention outputs at tokens", "heads"


class Exact:
    """What the difference of two logits becomes when a part has a corrupted prompt's activation, part by part.

    Args:
        loaded: a decoder as `load_text` loads it, whose layers have `mlp` and `self_attn.o_proj`.
    """

    def __init__(self, loaded: Any) -> None:
        self.model: nn.Module = loaded.model
        self.heads = int(loaded.whole.config.num_attention_heads)
        found = [path for path, module in self.model.named_modules() if path.endswith(".mlp")]
        self.paths = {
            MLP_OF: found,
            ATTENTION_OF: [path.replace(".mlp", ".self_attn.o_proj") for path in found],
            HEADS_OF: [path.replace(".mlp", ".self_attn.o_proj") for path in found],
        }

    def of(self, kind: str) -> list[str]:
        """The layers of a kind, as relprop names them."""
        return [f"{path}:input" for path in self.paths[kind]] if kind == HEADS_OF else self.paths[kind]

    @property
    def layers(self) -> list[str]:
        """All of them."""
        return [layer for kind in self.paths for layer in self.of(kind)]

    def difference(self, ids: Tensor, a: int, b: int) -> Tensor:
        logits = self.model(ids, torch.ones_like(ids))
        return logits[:, a] - logits[:, b]

    def values(self, ids: list[int], a: int, b: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The difference, and all parts' activations by the names that relprop has for their layers."""
        kept: dict[str, Tensor] = {}

        def keeps(layer: str) -> Callable[[Tensor], Tensor]:
            def keep(value: Tensor) -> Tensor:
                kept[layer] = value
                return value

            return keep

        with ExitStack() as stack:
            for layer in dict.fromkeys(self.layers):
                stack.enter_context(changed(self.model, layer, keeps(layer)))
            return self.difference(torch.tensor([ids]), a, b), kept

    def effects(self, clean: list[int], other: list[int], a: int, b: int) -> dict[str, Tensor]:
        """By kind, all parts of the first layer, of the second, ...: tokens, or heads."""
        with torch.no_grad():
            base = self.difference(torch.tensor([clean]), a, b)
            _, values = self.values(other, a, b)
            return {
                kind: torch.cat(
                    [self._of_layer(kind, layer, clean, values[layer], a, b) - base for layer in self.of(kind)]
                )
                for kind in self.paths
            }

    def _of_layer(self, kind: str, layer: str, clean: list[int], other: Tensor, a: int, b: int) -> Tensor:
        """All parts of one layer in one batch: row i has part i of the corrupted prompt."""
        count = self.heads if kind == HEADS_OF else len(clean)

        def put(value: Tensor) -> Tensor:
            value = value.clone()
            for i in range(count):
                if kind == HEADS_OF:
                    self.by_head(value[i])[:, i] = self.by_head(other[0])[:, i]
                else:
                    value[i, i] = other[0, i]
            return value

        with changed(self.model, layer, put):
            return self.difference(torch.tensor([clean]).expand(count, -1), a, b)

    def by_head(self, value: Tensor) -> Tensor:
        """(T, heads · D) as (T, heads, D)."""
        return value.view(*value.shape[:-1], self.heads, -1)


def by_gradient(exact: Exact, clean: list[int], other: list[int], a: int, b: int) -> dict[str, Tensor]:
    """Attribution patching: `(a' − a) ∂y/∂a` summed over each part, as `Exact.effects`."""
    with torch.no_grad():
        _, values = exact.values(other, a, b)
    with torch.enable_grad():
        y, own = exact.values(clean, a, b)
    gradients = dict(zip(own, torch.autograd.grad(y.sum(), list(own.values())), strict=True))
    effects = {layer: ((values[layer] - own[layer].detach()) * gradients[layer])[0] for layer in own}
    return {
        kind: torch.cat(
            [
                exact.by_head(effects[layer]).sum((0, 2)) if kind == HEADS_OF else effects[layer].sum(-1)
                for layer in exact.of(kind)
            ]
        )
        for kind in exact.paths
    }


@contextmanager
def changed(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A model in which the output of a module, or of `NAME:input` the input, is another one."""
    path, _, inside = layer.partition(":")
    module = model.get_submodule(path)
    if inside:
        handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def corrupted(tokenizer: Any, prompt: Prompt) -> tuple[list[int], list[int]] | None:
    """A prompt of indirect objects, and the same where the other one gives; None for another number of tokens."""
    giver = str(prompt.against).strip()
    start = prompt.text.rindex(giver)
    other = prompt.text[:start] + prompt.answer.strip() + prompt.text[start + len(giver) :]
    one, two = (tokenizer(text)["input_ids"] for text in (prompt.text, other))
    return (one, two) if len(one) == len(two) else None


def pearson(x: Tensor, y: Tensor) -> float:
    """The correlation of two vectors; 0 where one of them is constant."""
    x, y = (v.double() - v.double().mean() for v in (x.detach(), y.detach()))
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else 0.0

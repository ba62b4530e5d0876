"""What a decoder of 7 billion parameters needs, computed from its program: a table in docs/performance.md.

    python benchmarks/needs.py --write docs/performance.md
    python benchmarks/needs.py --tiny

All layers share the weights of one, so that the model fits where it is computed: its program is that of the whole one.
Both loops of the program run on tensors that have shapes alone (`relprop.engine.program.footprint`). The first rows
are a model that is small enough to be measured, too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from made import put
from memory import peak_above
from networks import llama_config, smollm2, tiny_smollm2, token_ids
from torch import nn
from worker import EXACT_MEMORY

from relprop import LRP
from relprop.analyzers.options import Options
from relprop.composites import AttnLRP
from relprop.engine.program.footprint import Footprint, footprint
from relprop.targets import Logit

MIB, GIB = 2**20, 2**30
SEVEN = {"layers": 32, "width": 4096, "heads": 32, "vocabulary": 32000}


@dataclass(frozen=True)
class Row:
    """Bytes of one call: of the weights, and the most beside them; computed, and measured if it was."""

    model: str
    tokens: int
    checkpoint: bool
    weights: int
    peak: int
    measured: float | None = None


def needs(lrp: LRP, vocabulary: int, length: int) -> Footprint:
    """Of an explanation at the last position."""
    short = token_ids(vocabulary, 1, 8)
    lrp(input_ids=short, target=(-1, 0))
    known = lrp._latest
    assert known is not None
    question = Options().question(known, Logit((-1, 0)), False, None)
    program, inputs, (asked,) = known.fit([token_ids(vocabulary, 1, length)], [question])
    return footprint(program, inputs, asked, segments=known.segments(program))


def small(tiny: bool, lengths: tuple[int, ...]) -> list[Row]:
    """Computed beside measured."""
    rows = []
    built = (tiny_smollm2 if tiny else smollm2)(8)("cpu")
    vocabulary = built.model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    for checkpoint in (False, True):
        lrp = LRP(built.model, AttnLRP(), normalize_output=False, checkpoint=checkpoint)
        for length in lengths:
            found = needs(lrp, vocabulary, length)
            ids = token_ids(vocabulary, 1, length)
            lrp(input_ids=ids, target=(-1, 0))
            measured = peak_above(_call(lrp, ids)).peak * MIB
            rows.append(Row("SmolLM2-135M, float32", length, checkpoint, found.weights, found.peak, measured))
    return rows


def _call(lrp: LRP, ids: torch.Tensor) -> Callable[[], object]:
    return lambda: lrp(input_ids=ids, target=(-1, 0))


def seven_billion(tiny: bool, lengths: tuple[int, ...]) -> list[Row]:
    """In bfloat16, with relevance in float32."""
    from transformers.models.llama import modeling_llama

    sizes = {"layers": 3, "width": 32, "heads": 2, "vocabulary": 50} if tiny else SEVEN
    config = llama_config(**sizes, max_position_embeddings=32768)
    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    torch.set_default_dtype(torch.bfloat16)
    model = modeling_llama.LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    first = model.model.layers[0]
    weights += (layers - 1) * sum(p.numel() * p.element_size() for p in first.parameters())
    for number in range(1, layers):
        model.model.layers.append(_sharing(modeling_llama.LlamaDecoderLayer, config, number, first))
    config.num_hidden_layers = layers
    rows = []
    for checkpoint in (False, True):
        lrp = LRP(model, AttnLRP(), normalize_output=False, checkpoint=checkpoint, checks=False)
        for length in lengths:
            found = needs(lrp, sizes["vocabulary"], length)
            rows.append(Row("7B, bfloat16", length, checkpoint, weights, found.peak))
    return rows


def _sharing(kind: type[nn.Module], config: object, number: int, first: nn.Module) -> nn.Module:
    """A layer with the parameters of the first one."""
    with torch.device("meta"):
        layer = kind(config, number).eval()
    for path, module in layer.named_modules():
        other = first.get_submodule(path)
        for name in list(module._parameters):
            module._parameters[name] = other._parameters[name]
    return layer


def render(rows: list[Row]) -> str:
    lines = [
        "| model | tokens | `checkpoint` | weights, GiB | computed peak beside them, GiB | measured, GiB |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for r in rows:
        measured = "" if r.measured is None else f"{r.measured / GIB:.2f}"
        said = f"{r.model} | {r.tokens:,} | {r.checkpoint} | {r.weights / GIB:.2f} | {r.peak / GIB:.2f} | {measured}"
        lines.append(f"| {said} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if not os.environ.keys() >= EXACT_MEMORY.keys():  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | EXACT_MEMORY)
    few = (16, 32) if arguments.tiny else (512, 1024)
    many = (16, 32) if arguments.tiny else (1024, 4096, 16384)
    text = render([*small(arguments.tiny, few), *seven_billion(arguments.tiny, many)])
    if arguments.write:
        put(arguments.write, "needs", text)
    else:
        print(text)


if __name__ == "__main__":
    main()

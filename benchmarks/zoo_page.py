"""docs/zoo.md from the rows of the zoo."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from zoo_measure import BALANCED

Row = dict[str, Any]

INTRODUCTION = """# The zoo

What relprop makes of the architectures that people use: `torchvision` (every classification model that it lists, and
its segmentation models), `timm`, Hugging Face `transformers` as tiny configurations, and graphs and tables written
out. There is no code for any of them in relprop. Weights are random with a fixed seed, norms scale and shift, and batch
norms have the statistics of random inputs.

- **captured**: `torch.export` took the model in. **unexplained**: operators that relevance would reach and no rule
  explains.
- **imbalance**: of the worst operator's account under `LRP(model)`, in float32: relevance that came in, less what went
  on and what the sinks kept, over the magnitudes that came in. Above 1e-4 also in float64*, which tells rounding from
  a mistake: the 0-rule divides by `z`, and where that is the small rest of a weighted sum and its bias, as behind the
  gates of squeeze-and-excitation, shares many times larger than what came in cancel. `inf`: float32 overflowed.
- **conservation**: relevance of the inputs over that of the output after biases were set to zero, under
  `CPLRP(gate="signal")`: attention weights and gates count as constants. Then only constants keep relevance: position
  embeddings, class tokens, padding with other values than zero. **kept** is their share and that of the stabilizer;
  the two add up to 1. float32, or where marked * float64.
- **refused**: by decision; below each table stands why, and the next step. Positions that a model predicts, as those of
  deformable attention, are data beside the picture that is read there: a `StopRule` on what predicts them explains it.
- torchvision's detectors choose boxes by `nms`, so that the sizes behind it are data: their backbones, heads and
  `roi_align` at given boxes are explained, the whole is refused.
- Where relprop and input times modified gradient differ: ViViT spells `gelu_fast` out, which relprop takes as one
  function; fbnetv3, regnetz and nfnets differ by the stabilizer of the 0-rule (1e-5 to 1e-4 of the relevance at 1e-9,
  a hundredth of it at 1e-11). `tests/oracles/test_differences_explained.py` shows both.
- Seconds are those of one thread on a machine that did other work too.
"""


def render(rows: Iterable[Row], missing: Sequence[str] = ()) -> str:
    """The whole page; models that were not measured yet are named at its end."""
    rows = list(rows)
    libraries = list(dict.fromkeys(r["library"] for r in rows))
    used = ", ".join(f"{name} {version(name)}" for name in ("torch", *libraries) if name != "written_out")
    parts = [
        INTRODUCTION,
        f"Made by `make zoo` (`python benchmarks/zoo.py --write docs/zoo.md`) with {used}, Python "
        f"{platform.python_version()}.\n",
        _counts(rows, libraries),
    ]
    parts += [_table(library, [r for r in rows if r["library"] == library]) for library in libraries]
    if missing:
        parts.append(f"## Not measured yet\n\n{', '.join(missing)}.\n")
    return "\n".join(parts)


def is_explained(row: Row) -> bool:
    return bool(row["captured"]) and not row.get("unexplained") and "error" not in row


def _counts(rows: list[Row], libraries: list[str]) -> str:
    lines = ["| library | models | captured | explained | balanced | refused |", "|---|---|---|---|---|---|"]
    for library in libraries:
        own = [r for r in rows if r["library"] == library]
        explained = [r for r in own if is_explained(r)]
        balanced = sum(r["imbalance"] <= BALANCED for r in explained)
        wide = sum(r["imbalance"] > BALANCED >= r.get("imbalance_float64", 1.0) for r in explained)
        captured = sum(bool(r["captured"]) for r in own)
        refused = sum("error" in r or bool(r.get("unexplained")) for r in own)
        lines.append(
            f"| {library} | {len(own)} | {captured} | {len(explained)} "
            f"| {balanced}{f', {wide} more in float64' if wide else ''} | {refused} |"
        )
    return "\n".join(lines) + "\n"


def _table(library: str, rows: list[Row]) -> str:
    lines = [
        f"## {library}\n",
        "| model | captured | unexplained | imbalance | conservation | kept | capture s | explain s |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(r) for r in rows),
    ]
    notes = [f"- **{r['name']}**: {_quoted(r['error'])}" for r in rows if "error" in r]
    return "\n".join([*lines, "", *(["What stopped the others:\n", *notes, ""] if notes else [])])


def _line(row: Row) -> str:
    name = f"| {row['name']} "
    if not row["captured"] or "error" in row:
        return f"{name}| {'refused' if row.get('refused') else 'no'} | | | | | | |"
    if row["unexplained"]:
        return f"{name}| yes | {', '.join(f'`{o}`' for o in row['unexplained'])} | | | | | |"
    star = "*" if row.get("dtype") == "float64" else ""
    kept = sum(row["kept"].values())
    wide = f", {row['imbalance_float64']:.0e}*" if "imbalance_float64" in row else ""
    return (
        f"{name}| yes | 0 | {row['imbalance']:.0e}{wide} | {_number(row['conservation'])}{star} | {_number(kept)} "
        f"| {row['capture_s']:.1f} | {row['explain_s']:.2f} |"
    )


def _number(x: float) -> str:
    return f"{x:.4f}" if abs(x) < 1e4 else f"{x:.3e}"


def _quoted(message: str) -> str:
    """The first lines of an error, on one."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400].replace("|", "\\|").replace("<", "&lt;")

"""docs/benchmarks.md from what was measured, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

INTRODUCTION = """# Benchmarks

What an explanation costs, next to one plain gradient of the model and to other libraries, and whether they agree.
Written by `make bench`: do not edit.
"""

NOTES = """Random weights, batch norm statistics that fit them. Explained are the largest logits; of decoders, that of
the last position. Every method of a case runs in a process of its own; up to six and the plain gradient take turns,
round by round, after a first call: the table has medians. Slow methods have fewer rounds, at least two.

- *ratio*: seconds over those of the plain gradient of the same case. Parameters are frozen for all.
- *peak*: MiB in use that a call takes above model, input and kept weights, *kept*: MiB that stay after the first call,
  for relprop the weights that rules have modified. Both in another process, in which freed memory goes back at once.
- *conservation*: relevance of the input over what is explained, mean over samples, with the biases that the model has:
  what they keep is missing.
- *EpsilonGammaBox* has the paper's γ-rule here (`generalized=False`), *generalized* what the preset has by default.
- *difference*: norm of the difference to relprop's relevance over the norm of that, where the other method means to be
  the same: Zennit to the same composite (its γ-rule is the generalized one), Captum's ε-rule to `EpsilonRule`, Captum
  with `Alpha1_Beta0_Rule` for convolutions to `EpsilonPlus`, LXT to `AttnLRP`, to `CPLRP(gate="signal")`, and on the
  vision transformer to `CPLRP`. Zennit and Captum hook modules: what a model does by functions (residual sums, which
  Zennit's canonizer for ResNet makes modules of; the pooling of DenseNet; the sums and gates of EfficientNet) is a
  plain gradient to them, and there the results differ.
- *the last position by hand*: the user asks the decoder for the logits at the last position only
  (the last hidden state, then the head). relprop and the others are given the model as it is.
- *CPLRP gamma outside attention*: γ where LXT's example for vision transformers has it. Its hooks on modules do not
  see the projections inside `nn.MultiheadAttention`; `CPLRP gamma` reaches them too.
- *10 targets*: ten classes of one picture; ratios are to the gradient of one class. Gradients share one forward pass.
- *20 channels*: relevance by each of 20 channels of the last convolution; gradients share the way down to it.
- *Two sentences*: BiLRP of a sentence embedding of 384 dimensions (the sizes of MiniLM), and 768 calls of `LRP`.
- Where a method cannot run, its row says what it said.
"""

FLOORS = """## The floor of arithmetic

A *pass* is a product of a layer's weights with the batch, forward or back. A plain gradient takes two for each layer.
The least that rules need, by layer:

| rule | inputs nowhere negative | inputs of either sign |
|---|---:|---:|
{passes}

z⁺ is a forward pass, and a forward pass and a pullback with W⁺; αβ gets the forward pass with W⁺ by subtraction;
between ReLUs the generalized γ is the γ-rule; the flat rule spreads relevance with a window of ones; z^B needs
pullbacks with W⁺ and with W⁻ only. Weighted by the FLOPs of each layer (linear layers have the ε-rule, the first
convolution its own), these are the ratios to a plain gradient that arithmetic allows. Memory traffic, activations,
pooling, norms come on top, for gradients too.

| case | GFLOP forward | layers, with signed input | composite | floor | measured |
|---|---:|---:|---|---:|---:|
"""


def render(results: dict[str, Any], order: Sequence[str]) -> str:
    """The whole page."""
    cases = {name: results["cases"][name] for name in order if name in results.get("cases", {})}
    growth = {name: results["growth"][name] for name in order if name in results.get("growth", {})}
    usual = _circumstances(next(iter((cases | growth).values()))["machine"]) if cases | growth else ""
    parts = [INTRODUCTION, usual, NOTES]
    for name, found in cases.items():
        own = _circumstances(found["machine"])  # where a case was measured anew, or on a GPU
        parts.append(f"## {name}\n" + ("" if own == usual else f"\n{own}") + f"\n{_case(found['rows'])}")
    if any(found["floors"] for found in cases.values()):
        parts.append(_floors(cases))
    if growth:
        parts.append(_growth(growth))
    missing = [name for name in order if not name.endswith(", GPU") and name not in cases | growth]
    if missing:
        parts.append(f"Not measured yet: {'; '.join(missing)}.\n")
    return "\n".join(parts)


def _circumstances(machine: dict[str, Any]) -> str:
    theirs = {name: v for name, v in machine["peers"].items() if machine["versions"].get(name) != v}
    own = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    apart = ", ".join(f"{name} {v}" for name, v in theirs.items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, float32; up to "
        f"{machine['rounds']} rounds, {machine['date']}. Python {machine['python']}, {own}."
        + (f" Captum and LXT run in an environment of their own, with {apart}." if apart else "")
        + "\n"
    )


def _case(rows: list[Row]) -> str:
    lines = [
        "| method | seconds | ratio | first call, s | peak, MiB | kept, MiB | conservation | difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    if "error" in row:
        return f"| {row['method']} | | | | | | | {_quoted(row['error'])} |"
    cells = [
        f"{row['seconds']:.3f}",
        f"{row['ratio']:.2f}",
        f"{row['first']:.1f}",
        _number(row.get("peak"), "{:.0f}"),
        _number(row.get("kept"), "{:.0f}"),
        _number(row.get("conservation"), "{:.3f}"),
        _number(row.get("difference"), "{:.0e}"),
    ]
    return f"| {row['method']} | {' | '.join(cells)} |"


def _number(x: float | None, form: str) -> str:
    if x is None:
        return ""
    return form.format(x) if abs(x) < 1e4 else f"{x:.1e}"


def _quoted(message: str) -> str:
    return message.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _floors(cases: dict[str, Any]) -> str:
    from floors import PASSES

    passes = "\n".join(f"| {rule} | {plain} | {signed} |" for rule, (plain, signed) in PASSES.items())
    lines = []
    for name, found in cases.items():
        ratios = {row["method"]: row.get("ratio") for row in found["rows"]}
        floors = found["floors"]
        lines += [
            f"| {name} | {floors['gflop']:.2f} | {floors['layers']}, {floors['signed']} | {composite} | {ratio:.2f} "
            f"| {_number(ratios.get(f'relprop {composite}'), '{:.2f}')} |"
            for composite, ratio in floors.get("ratios", {}).items()
        ]
    return FLOORS.format(passes=passes) + "\n".join(lines) + "\n"


def _growth(growth: dict[str, Any]) -> str:
    curves = {name: found for name, found in growth.items() if "seconds" in found}
    parts = ["## Cost as work grows\n"]
    if curves:
        parts += ["![Ratio to the plain gradient as work grows](images/benchmark_growth.png)\n"]
        parts += [f"Ratio to the plain gradient by {name} ({f['what']}):\n\n{_curve(f)}" for name, f in curves.items()]
    for found in growth.values():
        if "first" in found:
            parts.append(_first(found["first"]))
        if "held" in found:
            parts.append(_many_calls(found["held"]))
    return "\n".join(parts)


def ratios_of(found: dict[str, Any]) -> list[float]:
    return [explanation / gradient for gradient, explanation in found["seconds"]]


def _curve(found: dict[str, Any]) -> str:
    def row(title: str, cells: Sequence[object]) -> str:
        return f"| {title} | {' | '.join(str(c) for c in cells)} |"

    gradient, explanation = zip(*found["seconds"], strict=True)
    lines = [
        row("", found["values"]),
        "|---|" + "---:|" * len(found["values"]),
        row("gradient, s", [f"{s:.3f}" for s in gradient]),
        row("relprop, s", [f"{s:.3f}" for s in explanation]),
        row("ratio", [f"{r:.2f}" for r in ratios_of(found)]),
    ]
    return "\n".join(lines) + "\n"


def _first(found: dict[str, Row]) -> str:
    lines = [
        "### The first call, and later ones\n",
        "Seconds. An analyzer captures the model once for each kind of input, and makes modified weights once.\n",
        "| network | capture | rules and program | first run | later run | first call over later one |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, f in found.items():
        total = (f["capture"] + f["program"] + f["first"]) / f["later"]
        seconds = " | ".join(f"{f[key]:.2f}" for key in ("capture", "program", "first", "later"))
        lines.append(f"| {name} | {seconds} | {total:.0f} |")
    return "\n".join(lines) + "\n"


def _many_calls(held: dict[str, float]) -> str:
    (few, before), (many, after) = held.items()
    return (
        f"### Memory over many calls\n\nA small network, explained again and again: after {few} calls the process held "
        f"{before:.0f} MiB, after {many} calls {after:.0f} MiB, {after - before:+.1f} MiB.\n"
    )


def draw_growth(growth: dict[str, Any], path: Path) -> None:
    """One panel for each curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = {name: found for name, found in growth.items() if "seconds" in found}
    if not curves:
        return
    figure, axes = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 2.8), sharey=True, squeeze=False)
    for axis, (name, found) in zip(axes[0], curves.items(), strict=True):
        axis.plot(found["values"], ratios_of(found), marker="o")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(found["values"], [str(v) for v in found["values"]])
        axis.set_xlabel(name)
    axes[0][0].set_ylim(0, 1.1 * max(ratio for found in curves.values() for ratio in ratios_of(found)))
    axes[0][0].set_ylabel("time over plain gradient")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)

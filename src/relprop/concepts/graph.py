"""Attribution graphs: concepts, the relevance that flows between them, their picture, and circuit viewers' JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relprop.concepts.nodes import Concept, Prompt
from relprop.concepts.viewers import circuit
from relprop.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph


@dataclass(frozen=True)
class AttributionGraph:
    """Concepts of several layers, and the relevance that flows between those of neighbouring ones.

    Attributes:
        levels: the concepts of each layer from the target down, in each the strongest first.
        relevance: of each concept.
        activation: a concept's largest activation; of the target none.
        edges: (upper, lower) -> relevance that flows from one to the other.
        hidden: of each concept that is not in the last level, relevance that flows to concepts which are not shown.
        lost: relevance that never comes to the next level: what biases and other sinks kept, and what goes around it.
        prompt: what positions stand for, if it was said.
    """

    levels: tuple[tuple[Concept, ...], ...]
    relevance: Mapping[Concept, float]
    activation: Mapping[Concept, float]
    edges: Mapping[tuple[Concept, Concept], float]
    hidden: Mapping[Concept, float]
    lost: Mapping[Concept, float]
    prompt: Prompt | None = None

    @property
    def target(self) -> Concept:
        """What is explained."""
        return self.levels[0][0]

    def children(self, concept: Concept) -> dict[Concept, float]:
        """Lower concept -> relevance that it gets from this one.

        Args:
            concept: one of the graph's.
        """
        return {lower: flow for (upper, lower), flow in self.edges.items() if upper == concept}

    def to_networkx(self) -> DiGraph:
        """As a directed graph from the target down; nodes have `layer`, `feature`, `relevance`, ..., edges `weight`."""
        from networkx import DiGraph

        graph = DiGraph()
        for level, concepts in enumerate(self.levels):
            for c in concepts:
                told = {name: getattr(self, name).get(c) for name in ("relevance", "activation", "hidden", "lost")}
                told |= {} if c.position is None else {"position": c.position}
                graph.add_node(c, layer=c.layer, feature=c.feature, level=level, **told)
        for (upper, lower), flow in self.edges.items():
            graph.add_edge(upper, lower, weight=flow)
        return graph

    def to_json(
        self, name: str = "relprop", *, text: str = "", target: str | None = None, probability: float = 0.0
    ) -> dict[str, Any]:
        """What circuit viewers read (the schema of circuit-tracer and Neuronpedia), ready for `json.dump`.

        Args:
            name: of the graph and of the model.
            text: what the sample is, shown as the prompt; "": that of the graph.
            target: name of what is explained; None: its number.
            probability: the model's, of the target, which viewers show.
        """
        said = str(self.target.feature) if target is None else target
        return circuit(self, name, text, said, probability)

    def plot(self, *, names: Mapping[Concept, str] | None = None) -> Figure:
        """Draw it, the target on top: red flow speaks for it, blue against it.

        Args:
            names: what is written at a concept instead of its number.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return _drawn(self, names or {})

    def __repr__(self) -> str:
        sizes = ", ".join(f"{level[0].layer}: {len(level)}" for level in self.levels[1:])
        return f"AttributionGraph({sizes}; {len(self.edges)} edges)"


def _drawn(graph: AttributionGraph, names: Mapping[Concept, str]) -> Figure:
    """The graph in rows, the target on top."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("drawing a graph needs matplotlib: pip install 'relprop[images]'") from error
    tokens = () if graph.prompt is None else graph.prompt.tokens
    widest = len(tokens) or max(map(len, graph.levels))
    size = (2.2 + (0.8 if tokens else 1.1) * widest, 0.6 + 1.2 * len(graph.levels))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    place = {c: (x, -row) for row, level in enumerate(graph.levels) for c, x in _spread(level, widest)}
    _flows(axis, graph, place)
    scale = abs(graph.relevance[graph.target]) or 1.0
    for c, (x, y) in place.items():
        colour = "tab:red" if graph.relevance[c] > 0 else "tab:blue"
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        own = str(c.feature) if graph.prompt is None else graph.prompt.token_at(c) or str(c.feature)
        label = names.get(c, c.layer if c is graph.target else own)
        text = f"{label}\n{graph.relevance[c] / scale:.0%}"
        axis.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    for row, level in enumerate(graph.levels[1:], 1):
        axis.text(-0.15, -row, level[0].layer, ha="right", va="center", fontsize=9)
    for i, token in enumerate(tokens):
        axis.text(i + 0.5, 0.6 - len(graph.levels), token, ha="center", va="top", fontsize=9, rotation=45)
    axis.set(xlim=(-0.1, widest), ylim=((0.1 if tokens else 0.5) - len(graph.levels), 0.5))
    axis.set_axis_off()
    found: Figure = figure
    return found


def _spread(level: Sequence[Concept], widest: int) -> list[tuple[Concept, float]]:
    """Where concepts of a row are: above their token, side by side, or evenly where they have none."""
    found = []
    for i, c in enumerate(level):
        if c.position is None:
            found.append((c, (i + 0.5) * widest / len(level)))
            continue
        together = [other for other in level if other.position == c.position]
        found.append((c, c.position + (together.index(c) + 0.5) / len(together)))
    return found


def _flows(axis: Axes, graph: AttributionGraph, place: Mapping[Concept, tuple[float, float]]) -> None:
    """Lines as wide and as opaque as what flows."""
    largest = max(map(abs, graph.edges.values()), default=1.0) or 1.0
    for (upper, lower), flow in sorted(graph.edges.items(), key=lambda edge: abs(edge[1])):
        strength = abs(flow) / largest
        (x, y), (to_x, to_y) = place[upper], place[lower]
        colour = "tab:red" if flow > 0 else "tab:blue"
        axis.plot([x, to_x], [y, to_y], color=colour, linewidth=0.5 + 6 * strength, alpha=0.15 + 0.65 * strength)

"""Attribution graphs: concepts, the relevance that flows between them, their picture, and circuit viewers' JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relprop.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph

TARGET = "target"

CONCEPT, REST, LOGIT = "cross layer transcoder", "mlp reconstruction error", "logit"
"""The schema's words for a concept, for what the shown concepts do not account for, and for what is explained."""


@dataclass(frozen=True)
class Concept:
    """A feature of a layer; of the layer `"target"` it is what is explained."""

    layer: str
    feature: int

    def __str__(self) -> str:
        return f"{self.layer} {self.feature}"


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
    """

    levels: tuple[tuple[Concept, ...], ...]
    relevance: Mapping[Concept, float]
    activation: Mapping[Concept, float]
    edges: Mapping[tuple[Concept, Concept], float]
    hidden: Mapping[Concept, float]
    lost: Mapping[Concept, float]

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
            text: what the sample is, shown as the prompt.
            target: name of what is explained; None: its number.
            probability: the model's, of the target, which viewers show.
        """
        return _circuit(self, name, text, str(self.target.feature) if target is None else target, probability)

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


def _circuit(graph: AttributionGraph, name: str, text: str, target: str, probability: float) -> dict[str, Any]:
    """The graph in the schema of circuit-tracer and Neuronpedia, version 1, at one position of a prompt.

    Layers are counted from the lowest up, from 1, and links lead up. One node of each layer stands for what the shown
    concepts do not get, so that the links into a node add up to its relevance.
    """
    height = len(graph.levels)
    number = {c: height - level for level, concepts in enumerate(graph.levels) for c in concepts}
    id_of = {c: f"{number[c]}_{c.feature}_0" for c in number}
    nodes = []
    for c, influence in _cumulative(graph).items():
        layer = number[c]
        told = {"influence": influence, "activation": graph.activation[c]}
        nodes.append(_node(id_of[c], layer, _paired(layer, c.feature), CONCEPT, f"{layer}_{c.feature}-0", str(c), told))
    nodes += [_node(f"0_{n}_0", n, -1, REST, f"{n}_0-0", f"not shown or lost at layer {n}") for n in range(1, height)]
    said = {"token_prob": probability, "is_target_logit": True}
    clerp = f'Output "{target}" (p={probability:.3f})'
    feature = graph.target.feature
    nodes.append(_node(id_of[graph.target], height, feature, LOGIT, f"L_{feature}-0", clerp, said))
    links = [(id_of[lower], id_of[upper], flow) for (upper, lower), flow in graph.edges.items()]
    links += [(f"0_{number[c] - 1}_0", id_of[c], graph.hidden[c] + graph.lost[c]) for c in graph.hidden]
    return {
        "metadata": {
            "slug": name,
            "scan": name,
            "transcoder_list": [],
            "prompt": text,
            "prompt_tokens": [text],
            "node_threshold": 1.0,
            "schema_version": 1,
        },
        "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [], "sg_pos": ""},
        "nodes": nodes,
        "links": [{"source": source, "target": to, "weight": weight} for source, to, weight in links],
    }


def _node(
    node_id: str, layer: int, feature: int, kind: str, js_id: str, clerp: str, told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    node = {"node_id": node_id, "feature": feature, "layer": str(layer), "ctx_idx": 0, "feature_type": kind}
    node |= {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
    return {**node, "jsNodeId": js_id, "clerp": clerp, "influence": None, "activation": None, **(told or {})}


def _cumulative(graph: AttributionGraph) -> dict[Concept, float]:
    """Of each concept the share of all magnitude that it and the stronger ones have: viewers cut the weakest off."""
    concepts = sorted((c for level in graph.levels[1:] for c in level), key=lambda c: -abs(graph.relevance[c]))
    total, so_far, shares = sum(abs(graph.relevance[c]) for c in concepts) or 1.0, 0.0, {}
    for c in concepts:
        so_far += abs(graph.relevance[c])
        shares[c] = min(1.0, so_far / total)
    return shares


def _paired(x: int, y: int) -> int:
    """Cantor's number of a pair, which viewers read layer and feature from."""
    return (x + y) * (x + y + 1) // 2 + y


def _drawn(graph: AttributionGraph, names: Mapping[Concept, str]) -> Figure:
    """The graph in rows, the target on top."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("drawing a graph needs matplotlib: pip install 'relprop[images]'") from error
    widest = max(map(len, graph.levels))
    figure, axis = plt.subplots(figsize=(2.2 + 1.1 * widest, 0.6 + 1.2 * len(graph.levels)), layout="constrained")
    place = {
        c: ((i + 0.5) * widest / len(level), -row)
        for row, level in enumerate(graph.levels)
        for i, c in enumerate(level)
    }
    _flows(axis, graph, place)
    scale = abs(graph.relevance[graph.target]) or 1.0
    for c, (x, y) in place.items():
        colour = "tab:red" if graph.relevance[c] > 0 else "tab:blue"
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        label = names.get(c, c.layer if c is graph.target else str(c.feature))
        text = f"{label}\n{graph.relevance[c] / scale:.0%}"
        axis.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    for row, level in enumerate(graph.levels[1:], 1):
        axis.text(-0.15, -row, level[0].layer, ha="right", va="center", fontsize=9)
    axis.set(xlim=(-0.1, widest), ylim=(0.5 - len(graph.levels), 0.5))
    axis.set_axis_off()
    found: Figure = figure
    return found


def _flows(axis: Axes, graph: AttributionGraph, place: Mapping[Concept, tuple[float, float]]) -> None:
    """Lines as wide and as opaque as what flows."""
    largest = max(map(abs, graph.edges.values()), default=1.0) or 1.0
    for (upper, lower), flow in sorted(graph.edges.items(), key=lambda edge: abs(edge[1])):
        strength = abs(flow) / largest
        (x, y), (to_x, to_y) = place[upper], place[lower]
        colour = "tab:red" if flow > 0 else "tab:blue"
        axis.plot([x, to_x], [y, to_y], color=colour, linewidth=0.5 + 6 * strength, alpha=0.15 + 0.65 * strength)

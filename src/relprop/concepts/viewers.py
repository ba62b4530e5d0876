"""Attribution graphs in the JSON that circuit viewers read: the schema of circuit-tracer and Neuronpedia, version 1.

Layers are counted from the lowest up, from 1, and links lead up. Tokens that stand for themselves are in the row `E`
below. One node of each layer stands for what the shown concepts do not get, so that the links into a node add up to its
relevance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from relprop.concepts.nodes import Concept, Prompt

CONCEPT, REST, LOGIT, TOKEN = "cross layer transcoder", "mlp reconstruction error", "logit", "embedding"
"""The schema's words for a concept, for what the shown ones do not account for, for what is explained, for a token."""


class Flow(Protocol):
    """What is shown of an `AttributionGraph`; see there."""

    @property
    def levels(self) -> tuple[tuple[Concept, ...], ...]:
        """Concepts of each layer."""

    @property
    def relevance(self) -> Mapping[Concept, float]:
        """What a concept got."""

    @property
    def activation(self) -> Mapping[Concept, float]:
        """What a concept was."""

    @property
    def edges(self) -> Mapping[tuple[Concept, Concept], float]:
        """From one concept to another."""

    @property
    def hidden(self) -> Mapping[Concept, float]:
        """What concepts that are not shown got from one."""

    @property
    def lost(self) -> Mapping[Concept, float]:
        """What went nowhere else."""

    @property
    def prompt(self) -> Prompt | None:
        """The tokens."""

    @property
    def target(self) -> Concept:
        """What is explained."""


def circuit(graph: Flow, name: str, text: str, target: str, probability: float) -> dict[str, Any]:
    """The graph in that schema, ready for `json.dump`.

    Args:
        graph: what is shown.
        name: of the graph and of the model.
        text: what the sample is, shown as the prompt; "": the graph's tokens.
        target: name of what is explained.
        probability: the model's, of the target.
    """
    row, last = _rows(graph), graph.target.position or 0
    id_of = {c: _name(graph, c, row[c], "_") for c in row}
    nodes = [_concept(graph, c, row[c], id_of[c], influence) for c, influence in _cumulative(graph).items()]
    rests = {n: _rest(n, last) for n in sorted({row[c] - 1 for c in graph.hidden})}
    nodes += rests.values()
    nodes.append(_logit(graph, row[graph.target], id_of[graph.target], target, probability))
    links = [(id_of[lower], id_of[upper], flow) for (upper, lower), flow in graph.edges.items()]
    links += [(rests[row[c] - 1]["node_id"], id_of[c], graph.hidden[c] + graph.lost[c]) for c in graph.hidden]
    tokens = [text] if graph.prompt is None else list(graph.prompt.tokens)
    return {
        "metadata": {
            "slug": name,
            "scan": name,
            "transcoder_list": [],
            "prompt": text or "".join(tokens),
            "prompt_tokens": tokens,
            "node_threshold": 1.0,
            "schema_version": 1,
        },
        "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [], "sg_pos": ""},
        "nodes": nodes,
        "links": [{"source": source, "target": to, "weight": weight} for source, to, weight in links],
    }


def _rows(graph: Flow) -> dict[Concept, int]:
    """The row of each concept, 0 for tokens that stand for themselves."""
    height = len(graph.levels) - (_token(graph, graph.levels[-1][0]) is not None)
    return {c: height - level for level, concepts in enumerate(graph.levels) for c in concepts}


def _token(graph: Flow, concept: Concept) -> str | None:
    return None if graph.prompt is None else graph.prompt.token_at(concept)


def _name(graph: Flow, concept: Concept, row: int, separator: str) -> str:
    """`layer_feature_position`; a token's is `E_id_position`."""
    position = concept.position or 0
    if graph.prompt is not None and graph.prompt.token_at(concept) is not None:
        return f"E_{graph.prompt.ids[position] if graph.prompt.ids else position}{separator}{position}"
    return f"{row}_{concept.feature}{separator}{position}"


def _concept(graph: Flow, concept: Concept, row: int, node_id: str, influence: float) -> dict[str, Any]:
    told: dict[str, Any] = {"influence": influence, "activation": graph.activation[concept]}
    position, token = concept.position or 0, _token(graph, concept)
    if token is not None:
        return _node(node_id, "E", position, TOKEN, _name(graph, concept, row, "-"), token, position, told)
    on = "" if graph.prompt is None or concept.position is None else f" on {graph.prompt.tokens[position]!r}"
    clerp = f"{concept.layer} {concept.feature}{on}"
    paired = _paired(row, concept.feature)
    return _node(node_id, str(row), paired, CONCEPT, f"{row}_{concept.feature}-0", clerp, position, told)


def _rest(row: int, position: int) -> dict[str, Any]:
    return _node(
        f"0_{row}_{position}", str(row), -1, REST, f"{row}_{position}-0", f"not shown or lost at layer {row}", position
    )


def _logit(graph: Flow, row: int, node_id: str, target: str, probability: float) -> dict[str, Any]:
    said = {"token_prob": probability, "is_target_logit": True}
    feature, position = graph.target.feature, graph.target.position or 0
    clerp = f'Output "{target}" (p={probability:.3f})'
    return _node(node_id, str(row), feature, LOGIT, f"L_{feature}-{position}", clerp, position, said)


def _node(
    node_id: str,
    layer: str,
    feature: int,
    kind: str,
    js_id: str,
    clerp: str,
    position: int,
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    node = {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind}
    node |= {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
    return {**node, "jsNodeId": js_id, "clerp": clerp, "influence": None, "activation": None, **(told or {})}


def _cumulative(graph: Flow) -> dict[Concept, float]:
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

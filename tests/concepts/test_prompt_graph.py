"""Attribution graphs of prompts: tokens, layers, heads and neurons, against matrices, and in the viewers' JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP
from relprop.concepts import AttributionGraph, Concept, Heads, Neurons, PerToken, Tokens, attribution_graph
from relprop.errors import InputError

WORDS = ("the", " cat", " sat", " on")
IDS = torch.tensor([[5, 2, 7, 1]])
D, HEADS, VOCABULARY = 6, 2, 9


class Layer(nn.Module):
    """`x + out(attention(x))`, then `+ down(relu(up(.)))`; no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.up, self.act, self.down = nn.Linear(D, 5, bias=False), nn.ReLU(), nn.Linear(5, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(self.act(self.up(x)))


class Decoder(nn.Module):
    def __init__(self, *, everywhere: bool = True) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.everywhere = everywhere
        self.embed, self.head = nn.Embedding(VOCABULARY, D), nn.Linear(D, VOCABULARY, bias=False)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x) if self.everywhere else self.head(x[:, -1])


WAY = {"layers.1": Tokens(), "layers.0": Tokens(), "embed": Tokens()}


def graph_of(width: int = 9, **options: bool) -> tuple[LRP, AttributionGraph]:
    lrp = LRP(Decoder(**options), CPLRP(), normalize_output=False)
    target = (3, 8) if options.get("everywhere", True) else 8
    return lrp, attribution_graph(lrp, {"input_ids": IDS}, WAY, target=target, width=width, tokens=WORDS)


def balanced(graph: AttributionGraph) -> None:
    for concept in graph.hidden:
        out = sum(graph.children(concept).values()) + graph.hidden[concept] + graph.lost[concept]
        assert out == pytest.approx(graph.relevance[concept], rel=1e-9, abs=1e-9)


def test_tokens_by_layers_lose_nothing_and_lead_back_only() -> None:
    """CP-LRP conserves here, and a token is made of itself and those before it."""
    lrp, graph = graph_of()
    balanced(graph)
    assert max(abs(kept) for kept in graph.lost.values()) < 1e-7
    assert graph.target == Concept("target", 8, 3)
    whole = lrp(input_ids=IDS, target=(3, 8), layers=["layers.0"])
    for c in graph.levels[3]:
        assert c.position == c.feature
        assert graph.relevance[c] == pytest.approx(float(whole.relevance[0, c.feature].sum()), abs=1e-9)
    for (upper, lower), flow in graph.edges.items():
        assert abs(flow) < 1e-12 or lower.position <= upper.position


def test_an_edge_is_relevance_that_started_at_its_upper_end() -> None:
    """`start` at the layer, with the upper token's own relevance, is another way to the same flow."""
    lrp, graph = graph_of()
    whole = lrp(input_ids=IDS, target=(3, 8), layers="layers.1")
    for upper in graph.levels[1]:
        own = torch.zeros_like(whole.layers["layers.1"])
        own[:, upper.position] = whole.layers["layers.1"][:, upper.position]
        found = lrp(input_ids=IDS, target=lambda value, own=own: own, start="layers.1", layers="layers.0")
        for lower in graph.levels[2]:
            expected = float(found.layers["layers.0"][0, lower.position].sum())
            assert graph.edges[upper, lower] == pytest.approx(expected, abs=1e-9)


def test_neurons_and_heads_of_single_positions() -> None:
    lrp = LRP(Decoder(), CPLRP(), normalize_output=False)
    way = {"layers.1.down:input": PerToken(Neurons()), "layers.0.out:input": PerToken(Heads(HEADS)), "embed": Tokens()}
    graph = attribution_graph(lrp, {"input_ids": IDS}, way, target=(3, 8), width=99, tokens=WORDS)
    balanced(graph)
    assert [len(level) for level in graph.levels] == [1, 4 * 5, 4 * HEADS, 4]
    whole = lrp(input_ids=IDS, target=(3, 8), layers=list(way)[:2], activations="layers.1.down:input")
    neurons, heads = whole.layers["layers.1.down:input"][0], whole.layers["layers.0.out:input"][0].reshape(4, HEADS, -1)
    for c in graph.levels[1]:
        assert graph.relevance[c] == pytest.approx(float(neurons[c.position, c.feature]), abs=1e-9)
        value = whole.activations["layers.1.down:input"][0, c.position, c.feature]
        assert graph.activation[c] == pytest.approx(float(value))
    for c in graph.levels[2]:
        assert graph.relevance[c] == pytest.approx(float(heads[c.position, c.feature].sum()), abs=1e-9)
    assert str(graph.levels[1][0]).startswith("layers.1.down:input ")
    assert " at 3" in str(graph.levels[1][0])  # the last token's neurons alone are read


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_viewers_schema(everywhere: bool) -> None:
    _, graph = graph_of(3, everywhere=everywhere)
    balanced(graph)
    viewed = json.loads(json.dumps(graph.to_json("tiny", target=" mat", probability=0.25)))
    assert viewed["metadata"]["prompt_tokens"] == list(WORDS)
    assert viewed["metadata"]["prompt"] == "the cat sat on"
    nodes = {node["node_id"]: node for node in viewed["nodes"]}
    assert len(nodes) == len(viewed["nodes"]) == 1 + 3 * 3 + 3
    (logit,) = [node for node in nodes.values() if node["feature_type"] == "logit"]
    assert (logit["node_id"], logit["layer"], logit["ctx_idx"], logit["feature"]) == ("3_8_3", "3", 3, 8)
    tokens = [node for node in nodes.values() if node["feature_type"] == "embedding"]
    assert {(n["node_id"], n["layer"], n["ctx_idx"], n["clerp"]) for n in tokens} <= {
        (f"E_{i}_{t}", "E", t, word) for t, (i, word) in enumerate(zip(IDS[0].tolist(), WORDS, strict=True))
    }
    assert len(tokens) == 3
    height = {node_id: -1 if node["layer"] == "E" else int(node["layer"]) for node_id, node in nodes.items()}
    incoming = dict.fromkeys(nodes, 0.0)
    for link in viewed["links"]:
        assert height[link["source"]] < height[link["target"]] or nodes[link["source"]]["layer"] == "0"
        incoming[link["target"]] += link["weight"]
    for row, level in ((2, graph.levels[1]), (1, graph.levels[2])):
        for c in level:
            node = nodes[f"{row}_{c.feature}_{c.position}"]
            assert node["ctx_idx"] == c.position
            assert node["clerp"] == f"{c.layer} {c.feature} on {WORDS[c.position]!r}"
            assert incoming[node["node_id"]] == pytest.approx(graph.relevance[c], abs=1e-9)
    assert incoming["3_8_3"] == pytest.approx(graph.relevance[graph.target])


def test_the_picture_has_tokens_below(tmp_path: object) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, graph = graph_of()
    figure = graph.plot()
    (axis,) = figure.axes
    texts = {text.get_text(): text.get_position() for text in axis.texts}
    assert [texts[word][0] for word in WORDS] == [0.5, 1.5, 2.5, 3.5]
    root = next(place for text, place in texts.items() if text.startswith("target"))
    assert root == (3.5, 0)
    assert graph.to_networkx().nodes[graph.levels[1][0]]["position"] == graph.levels[1][0].position
    pyplot.close(figure)


def test_refusals() -> None:
    lrp = LRP(Decoder(), CPLRP())
    with pytest.raises(InputError, match="names 3, and the prompt has 4"):
        attribution_graph(lrp, {"input_ids": IDS}, WAY, target=(3, 8), tokens=WORDS[:3])

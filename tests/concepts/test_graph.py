"""Attribution graphs, against flow worked out with dense matrices."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from relprop import LRP
from relprop.concepts import AttributionGraph, Channels, Concept, Heads, Neurons, attribution_graph
from relprop.errors import InputError
from relprop.rules import ZeroRule

X = torch.rand(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LAYERS = ["four", "three", "one"]


class Residual(nn.Module):
    """`h = relu(W1 x)`, `u = relu(W3 relu(W2 h + b) + h)`, `y = W5 relu(W4 u)`: a skip connection around two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 6, bias=False), nn.Linear(6, 5)
        self.third, self.fourth = nn.Linear(5, 6, bias=False), nn.Linear(6, 4, bias=False)
        self.last = nn.Linear(4, 3, bias=False)
        self.one, self.two, self.three, self.four = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(self.first(x))
        u = self.three(self.third(self.two(self.second(h))) + h)
        return self.last(self.four(self.fourth(u)))


def residual() -> tuple[Residual, LRP]:
    model = Residual().double()
    return model, LRP(model, ZeroRule(stabilizer=0.0), normalize_output=False)


def balanced(graph: AttributionGraph) -> None:
    for concept in graph.hidden:
        out = sum(graph.children(concept).values()) + graph.hidden[concept] + graph.lost[concept]
        assert out == pytest.approx(graph.relevance[concept], rel=1e-9, abs=1e-9)


def shares(weight: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """`a_i w_ji / z_j`, (j, i), 0 where nothing comes from."""
    return torch.where(z[:, None] == 0, 0, weight * a / torch.where(z == 0, 1, z)[:, None])


def test_a_residual_network_against_dense_matrices() -> None:
    """What the bias keeps on one branch, and what the other branch brings past a layer, is what is lost."""
    model, lrp = residual()
    with torch.no_grad():
        h = model.one(model.first(X))[0]
        two_in = model.second(h)
        t = model.two(two_in)
        branch = model.third(t)
        u = model.three(branch + h)
        four_in = model.fourth(u)
        v = model.four(four_in)
        y = model.last(v)[1]
        R_four = v * model.last.weight[1]
        four_three = R_four[:, None] * shares(model.fourth.weight, u, four_in)
        R_three = four_three.sum(0)
        by_sum = torch.where(branch + h == 0, 0, R_three / torch.where(branch + h == 0, 1, branch + h))
        to_two = (by_sum * branch)[:, None] * shares(model.third.weight, t, branch)
        to_h = to_two @ shares(model.second.weight, h, two_in)
        three_one = to_h + torch.diag(by_sum * h)
    graph = attribution_graph(lrp, X, LAYERS, target=1, width=6)
    balanced(graph)
    assert graph.relevance[graph.target] == pytest.approx(float(y), rel=1e-12)
    for (upper, lower), flow in graph.edges.items():
        expected = {"target": R_four.expand(9, -1), "four": four_three, "three": three_one}[upper.layer]
        assert flow == pytest.approx(float(expected[upper.feature, lower.feature]), rel=1e-9, abs=1e-12), (
            f"{upper} -> {lower}"
        )
        kept = to_two * (1 - shares(model.second.weight, h, two_in).sum(1))
    for c in graph.levels[2]:
        assert graph.lost[c] == pytest.approx(float(kept[c.feature].sum().detach()), rel=1e-6, abs=1e-9)
        assert graph.hidden[c] == pytest.approx(0, abs=1e-12)
    assert any(abs(graph.lost[c]) > 1e-3 for c in graph.levels[2])
    assert {c: graph.activation[c] for c in graph.levels[1]} == pytest.approx(
        {c: float(v[c.feature]) for c in graph.levels[1]}
    )


def test_what_goes_around_a_layer_is_lost() -> None:
    _, lrp = residual()
    whole = lrp(X, target=1, layers=["three", "two"], edges=[("one", ":add")])
    graph = attribution_graph(lrp, X, ["three", "two"], target=1, width=9)
    balanced(graph)
    around = sum(graph.lost[c] for c in graph.levels[1])
    assert around == pytest.approx(float(whole.edges["one -> :add"].sum()), rel=1e-6)
    assert abs(around) > 1e-3


def test_what_goes_around_a_concept_is_not_its_own() -> None:
    """Relevance on the skip connection comes to the lower layer, too, but not from the concepts on the branch."""
    _, lrp = residual()
    whole = lrp(X, target=1, layers="one", edges=[("one", "second"), ("one", ":add")])
    graph = attribution_graph(lrp, X, ["two", "one"], target=1, width=9)
    balanced(graph)
    sent = sum(sum(graph.children(c).values()) for c in graph.levels[1])
    assert sent == pytest.approx(float(whole.edges["one -> second"].sum()), rel=1e-6)
    assert abs(sent - float(whole.layers["one"].sum())) > 1e-3


def test_width_hides_and_keeps_the_strongest() -> None:
    _, lrp = residual()
    scores = lrp(X, target=1, layers="three").layers["three"][0]
    graph = attribution_graph(lrp, X, LAYERS, target=1, width=[3, 2, 1])
    assert [len(level) for level in graph.levels] == [1, 3, 2, 1]
    assert [c.feature for c in graph.levels[2]] == scores.abs().argsort(descending=True)[:2].tolist()
    balanced(graph)
    assert any(abs(graph.hidden[c]) > 1e-3 for c in graph.levels[1])


@pytest.mark.parametrize("chunk", [None, 3])
def test_all_flow_is_computed_on_one_forward_pass(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lrp = residual()
    attribution_graph(lrp, X, LAYERS, target=1)
    calls: list[int] = []
    answer = lrp.answers
    monkeypatch.setattr(lrp, "answers", lambda call: calls.append(len(call.targets)) or answer(call))
    graph = attribution_graph(lrp, X, LAYERS, target=1, width=3, chunk=chunk)
    assert calls == [1, 6]
    balanced(graph)


def test_what_one_concept_is_made_of() -> None:
    """A condition above: the graph of its relevance only."""
    _, lrp = residual()
    whole = attribution_graph(lrp, X, LAYERS, target=1, width=6)
    top = whole.levels[1][0]
    part = attribution_graph(lrp, X, LAYERS[1:], target=1, width=6, conditions={"four": Channels(top.feature)})
    for lower, flow in whole.children(top).items():
        assert part.relevance[lower] == pytest.approx(flow, rel=1e-9, abs=1e-12)
    balanced(part)


def test_groups_of_their_own_and_negative_flow() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.up, self.down, self.head = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.down(self.up(x).relu()).mean(1))

    x = torch.rand(1, 5, 3, dtype=torch.float64)
    graph = attribution_graph(LRP(Tokens().double()), x, {"down": Neurons(), "down:input": Heads(3)}, target=0, width=4)
    assert [len(level) for level in graph.levels] == [1, 4, 3]
    balanced(graph)
    assert min(graph.edges.values()) < 0 < max(graph.edges.values())


def test_networkx_and_the_viewers_schema() -> None:
    _, lrp = residual()
    graph = attribution_graph(lrp, X, LAYERS, target=1, width=[2, 3, 2])
    net = graph.to_networkx()
    assert net.number_of_nodes() == 8
    assert net.number_of_edges() == len(graph.edges) == 2 + 6 + 6
    concept = graph.levels[1][0]
    assert net.nodes[concept]["relevance"] == graph.relevance[concept]
    assert net[graph.target][concept]["weight"] == graph.edges[graph.target, concept]
    viewed = json.loads(json.dumps(graph.to_json("net", text="a vector", target="dog", probability=0.5)))
    assert viewed["metadata"] | {"node_threshold": 1.0} == {
        "slug": "net",
        "scan": "net",
        "transcoder_list": [],
        "prompt": "a vector",
        "prompt_tokens": ["a vector"],
        "node_threshold": 1.0,
        "schema_version": 1,
    }
    assert set(viewed["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    nodes = {node["node_id"]: node for node in viewed["nodes"]}
    assert len(nodes) == len(viewed["nodes"]) == 8 + 3
    fields = "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx jsNodeId"
    assert all(set(node) == {*fields.split(), "clerp", "influence", "activation"} for node in nodes.values())
    kinds = sorted(node["feature_type"] for node in nodes.values())
    assert kinds == ["cross layer transcoder"] * 7 + ["logit"] + ["mlp reconstruction error"] * 3
    incoming = dict.fromkeys(nodes, 0.0)
    for link in viewed["links"]:
        assert int(nodes[link["source"]]["layer"]) < int(nodes[link["target"]]["layer"])
        incoming[link["target"]] += link["weight"]
    for level, concepts in enumerate(graph.levels[1:3], 1):
        for c in concepts:
            layer = 4 - level
            assert incoming[f"{layer}_{c.feature}_0"] == pytest.approx(graph.relevance[c], abs=1e-9)
            x, y = layer, c.feature
            assert nodes[f"{layer}_{c.feature}_0"]["feature"] == (x + y) * (x + y + 1) // 2 + y
    assert incoming["4_1_0"] == pytest.approx(graph.relevance[graph.target])
    assert nodes["4_1_0"]["clerp"] == 'Output "dog" (p=0.500)'


def test_the_picture() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, lrp = residual()
    graph = attribution_graph(lrp, X, LAYERS, target=1, width=2)
    figure = graph.plot(names={graph.levels[1][0]: "a name"})
    (axis,) = figure.axes
    assert len(axis.lines) == len(graph.edges)
    widest = max(axis.lines, key=lambda line: line.get_linewidth())
    assert widest.get_linewidth() == pytest.approx(6.5)
    assert any(text.get_text().startswith("a name") for text in axis.texts)
    pyplot.close(figure)


def test_refusals() -> None:
    _, lrp = residual()
    wrong = {
        "'four' does not feed 'one'": lambda: attribution_graph(lrp, X, ["one", "four"]),
        "one sample": lambda: attribution_graph(lrp, torch.cat([X, X]), LAYERS),
        "at least one layer": lambda: attribution_graph(lrp, X, []),
        "width": lambda: attribution_graph(lrp, X, LAYERS, width=[1, 2]),
        "made of entries": lambda: attribution_graph(lrp, X, {"one": Channels(1)}),
        "matches no module": lambda: attribution_graph(lrp, X, ["nothing"]),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()


def test_a_concept_prints() -> None:
    assert str(Concept("one", 3)) == "one 3"
    _, lrp = residual()
    assert repr(attribution_graph(lrp, X, ["one"], width=2)) == "AttributionGraph(one: 2; 2 edges)"

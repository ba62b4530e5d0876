"""Selective scans (Mamba and its kin): what the input selects counts as a constant (MambaLRP, Jafari et al. 2024).

A scan keeps a state that decays and takes in a signal,

    h_t = Ā_t h_{t−1} + B̄_t x_t        y_t = C_t h_t        Ā_t = exp(Δ_t A)

and is linear in `x` once the step Δ, the decay Ā, the input map B̄ and the readout C are held constant. The graph shows
these roles, whether the scan is a loop over steps or written in chunks: a state is what decays by an exponential of
data; what multiplies it is a readout map; what decays before it meets a signal is a coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from relprop.engine.graph import operators as f
from relprop.engine.graph.graph import Graph, Node, data_inputs, info, operator_name
from relprop.engine.ops.analysis import reached_by_relevance, remove_dead
from relprop.engine.ops.product import is_product
from relprop.engine.ops.registry import lookup
from relprop.engine.rewrites.rewriting import insert, is_made_of_zeros, positional, refresh, replace, unmoved


class Role(Enum):
    """What a node is to a scan."""

    DECAY = auto()
    """An exponential of data."""
    COEFFICIENT = auto()
    """Something decayed that is no state, such as `B · exp(...)`."""
    SIGNAL = auto()
    """A coefficient times what the scan reads."""
    STATE = auto()
    """A signal that decayed, or a sum with one."""
    READOUT = auto()
    """A state times a readout map."""


STEPS = {"softplus", "clamp", "clamp_min"}
"""What makes a step size positive."""


@dataclass(frozen=True)
class HoldSelections:
    """What a selective scan selects counts as a constant: `hold(a) · b` for `a · b` (MambaLRP, Jafari et al. 2024).

    Values stay what they are. A graph without a state that decays stays as it is.
    """

    def __call__(self, graph: Graph) -> Graph:
        scan = _Scan()
        for node in graph.operators():
            if info(node).data:
                scan.visit(node)
        if Role.STATE in scan.roles.values():
            for product, factors in scan.held.items():
                _hold(graph, product, factors)
        return remove_dead(graph)


class _Scan:
    """Reads the roles off the graph, in order of execution."""

    def __init__(self) -> None:
        self.roles: dict[Node, Role] = {}
        self.held: dict[Node, set[Node]] = {}

    def visit(self, node: Node) -> None:
        role = self._role(node)
        if role is not None:
            self.roles[node] = role

    def _role(self, node: Node) -> Role | None:
        op = lookup(node)
        if operator_name(node) in {"exp", "exp2", "shifted_exponential"}:
            return Role.DECAY
        if is_product(node):
            return self._of_product(node, data_inputs(node))
        found = [r for x in data_inputs(node) if (r := self.roles.get(x)) is not None]
        if op is None or not found:
            return None
        if op.family == "movement":
            return Role.STATE if Role.STATE in found else found[0]
        if op.family == "sum":
            return self._of_sum(node)
        starts = operator_name(node) == "scale" and _is_initial_state(node.args[1])
        return Role.STATE if starts and found == [Role.DECAY] else None

    def _of_sum(self, node: Node) -> Role | None:
        states = [x for x in data_inputs(node) if self.roles.get(x) is Role.STATE]
        if not states:
            return None
        for summand in data_inputs(node):
            if summand not in states:
                self._select_signal(summand, self._chain(states))
        return Role.STATE

    def _chain(self, states: list[Node]) -> set[Node]:
        """A state and what it was before."""
        found: set[Node] = set()
        while states:
            found.update(states)
            before = [x for state in states for x in data_inputs(state) if self.roles.get(x) is Role.STATE]
            states = [x for x in before if x not in found]
        return found

    def _of_product(self, node: Node, factors: tuple[Node, ...]) -> Role | None:
        by_role = {role: [x for x in factors if self.roles.get(x) is role] for role in Role}
        others = {x for x in factors if self.roles.get(x) is None}
        decays = by_role[Role.DECAY]
        for carrier in (Role.STATE, Role.SIGNAL, Role.READOUT):
            if not by_role[carrier]:
                continue
            if decays:
                self._hold(node, {*decays, *(others if carrier is Role.STATE else ())})
                return Role.READOUT if carrier is Role.READOUT else Role.STATE
            if carrier is Role.STATE and others:
                self._hold(node, others)
                return Role.READOUT
            return None
        if by_role[Role.COEFFICIENT] and others:
            self._hold(node, set(by_role[Role.COEFFICIENT]))
            for other in others:
                self._select_signal(other, set())
            return Role.SIGNAL
        return Role.COEFFICIENT if decays and others else None

    def _select_signal(self, node: Node, state: set[Node]) -> None:
        """In what a scan takes in, `Δ · B · x`, hold step sizes, and factors that are computed from another one."""
        node = unmoved(node)
        if not is_product(node) or node in self.held:
            return
        factors = data_inputs(node)
        steps = {x for x in factors if operator_name(unmoved(x)) in STEPS}
        rest = [x for x in factors if x not in steps]
        above = {x: reached_by_relevance(x) for x in rest}
        if any(ancestors & state for ancestors in above.values()):
            return  # a delta rule: what is taken in depends on the state itself
        signals = [x for x in rest if all(unmoved(x) in above[y] for y in rest if y is not x)]
        self._hold(node, steps | ({*rest} - {signals[0]} if signals else set()))

    def _hold(self, product: Node, factors: set[Node]) -> None:
        if factors:
            self.held.setdefault(product, set()).update(factors)


def _is_initial_state(value: object) -> bool:
    """Zeros, moved or cast: what a state is before anything was taken in."""
    while isinstance(value, Node) and value.args and operator_name(value) in {"to", "_to_copy", "expand", "clone"}:
        value = value.args[0]
    return is_made_of_zeros(value)


def _hold(graph: Graph, product: Node, factors: set[Node]) -> None:
    """Count factors of a product as constants; an elementwise product with one factor left is a `scale`."""
    held = {x: insert(graph, product, f.hold, x, like=x) for x in factors}
    left = [x for x in data_inputs(product) if x not in factors]
    if operator_name(product) == "product" and len(left) == 1:
        weights = [held[x] for x in positional(product) if x in held]
        weight = weights[0] if len(weights) == 1 else insert(graph, product, f.product, *weights, like=product)
        replace(graph, product, insert(graph, product, f.scale, left[0], weight, None, like=product))
        return
    for factor, constant in held.items():
        product.replace_input_with(factor, constant)
    refresh([product])

"""What a family does with one node: a `Step` of the reverse program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from relprop.engine.graph.graph import Node, data_inputs, operator_name, other_inputs, where_is
from relprop.engine.ops.tape import Form, Forms, Message, Tape, masked_product
from relprop.errors import RuleError
from relprop.rules import Rule

Preference = Literal["c", "R", "source"]


@dataclass
class Plan:
    """What is known when a step is bound: everything about the nodes behind it, which relevance comes from.

    Attributes:
        starts: the nodes that relevance may start from.
        prefers: in which form each node likes its relevance.
        forms: which parts the message of a node may have.
        steps: those of the nodes behind.
        sizes: symbol of each size that the capture left open -> its size in the example, once someone has asked.
    """

    starts: frozenset[Node]
    prefers: Mapping[Node, Form]
    forms: dict[Node, Forms]
    steps: dict[Node, Step] = field(default_factory=dict)
    sizes: dict[Any, int] | None = None

    def senders(self, node: Node) -> list[Node]:
        """Readers of a node that send it relevance."""
        return [reader for reader in node.users if reader in self.steps and node in self.steps[reader].sources]


class Step:
    """Takes relevance from a node to its inputs. Made once per node and rule, before any input is seen.

    Attributes:
        node, rule: what it serves.
        sources: the nodes that it sends relevance to.
        leaves: the nodes that it differentiates its operator by, if it `records`.
        forms: which parts the incoming message may have.
        reads: nodes whose values it reads in the reverse pass.
        reads_for_parameters: those that it reads besides to tell the relevance of its parameters.
        reads_for_positions: those that it reads besides to tell what positions keep.
        records: the forward pass is to run the node under autograd.
        emits: which parts the messages to the sources may have.
        expects_gaps: it takes for granted that no relevance comes to some entries, as those where a ReLU is off.
    """

    records: ClassVar[bool] = False

    def __init__(self, node: Node, rule: Rule, plan: Plan) -> None:
        self.node = node
        self.rule = rule
        self.forms = plan.forms[node]
        self.sources = data_inputs(node)
        self.leaves = self.sources
        self.reads: frozenset[Node] = other_inputs(node)
        self.reads_for_parameters: frozenset[Node] = frozenset()
        self.reads_for_positions: frozenset[Node] = frozenset()
        self.emits: Forms = self.forms
        self.expects_gaps = False

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        """In which form a node likes its relevance; `"source"` passes the question on to its input."""
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        """Raise a `RuleError` where the rule cannot serve the node."""

    def run(self, tape: Tape) -> Any:
        """The node's value, in the forward pass. The step may save what its `pull` wants of that."""
        if self.records and not tape.widened:
            return tape.record(self.node, self.leaves)
        return tape.evaluate(self.node)

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        """The messages that the node's inputs get for the one that it got, at most one for each way into it.

        What it keeps goes to `tape.sink`, so that the books balance.
        """
        raise NotImplementedError

    def factored(self, message: Message, tape: Tape) -> Tensor:
        """The whole message as `c` with `R = z · c`, where `z` is the node's value.

        What came as R is divided by the stabilized `z`; where the rule `divides`, all of it is. The stabilizer's part
        is booked.
        """
        if message.R is None and not self.rule.divides:
            assert message.c is not None
            return message.c
        z = tape.value(self.node)
        relevance = tape.total(self.node, message) if self.rule.divides else message.R
        assert relevance is not None
        denominator = self.rule.modify_denominator(z)
        s = relevance / denominator
        tape.sink(self.node, "epsilon", lambda: masked_product(denominator - z, s))
        return s if self.rule.divides or message.c is None else s + message.c

    def read(self, *nodes: Node) -> None:
        """Ask the tape to keep these nodes' values until `pull`."""
        self.reads |= frozenset(nodes)


def cannot_serve(node: Node, rule: Rule, why: str) -> RuleError:
    """The error of a rule that was given to an operator which it is not made for."""
    return RuleError(f"{rule!r} cannot serve {where_is(node)}, operator {operator_name(node)}: {why}")

"""What a family does with one node: a `Step` of the reverse program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from relprop.errors import RuleError
from relprop.graph import Node, data_inputs, operator_name, other_inputs, where_is
from relprop.rules import Rule
from relprop.tape import Form, Forms, Message, Tape

Preference = Literal["c", "R", "source"]


class Step:
    """Takes relevance from a node to its inputs. Made once per node and rule, before any input is seen.

    Attributes:
        node, rule: what it serves.
        sources: the nodes that it sends relevance to.
        leaves: the nodes that it differentiates its operator by, if it `records`.
        forms: which parts the incoming message may have.
        reads: nodes whose values it reads in the reverse pass.
        records: the forward pass is to run the node under autograd.
        emits: which parts the messages to the sources may have.
    """

    records: ClassVar[bool] = False

    def __init__(self, node: Node, rule: Rule, forms: Forms, prefers: Mapping[Node, Form]) -> None:
        self.node = node
        self.rule = rule
        self.forms = forms
        self.sources = data_inputs(node)
        self.leaves = self.sources
        self.reads: frozenset[Node] = other_inputs(node)
        self.emits: Forms = forms

    @staticmethod
    def preference(node: Node, rule: Rule) -> Preference:
        """In which form a node likes its relevance; `"source"` passes the question on to its input."""
        return "source"

    @staticmethod
    def check(node: Node, rule: Rule) -> None:
        """Raise a `RuleError` where the rule cannot serve the node."""

    def pull(self, message: Message, tape: Tape) -> Iterable[tuple[Node, Message]]:
        raise NotImplementedError

    def read(self, *nodes: Node) -> None:
        self.reads |= frozenset(nodes)


def cannot_serve(node: Node, rule: Rule, why: str) -> RuleError:
    return RuleError(f"{rule!r} cannot serve {where_is(node)}, operator {operator_name(node)}: {why}")

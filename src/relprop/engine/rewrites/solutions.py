"""Solutions of linear systems as products with an inverse, where the system is no data: linear in the right side.

solve(A, B), solve_triangular(A, B), cholesky_solve(B, L)  -> A⁻¹ B,  or B A⁻¹
"""

from __future__ import annotations

import torch

from relprop.engine.graph.graph import Graph, Node, fake_value
from relprop.engine.rewrites.rewriting import Lowering, arguments, insert, is_data, rank_of, sizes_of

aten = torch.ops.aten


def _solve(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    system, right = given["A"], given["B"]
    if is_data(system) or not is_data(right):
        return None
    inverse = insert(graph, node, aten.linalg_inv.default, system)
    vectors = rank_of(right) == 1 or (
        rank_of(right) == rank_of(system) - 1 and sizes_of(right) == sizes_of(system)[:-1]
    )
    return _applied(graph, node, inverse, right, left=given["left"], vectors=vectors)


def _solve_triangular(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    system, right = given["self"], given["B"]
    if is_data(system) or not is_data(right) or given.get("unitriangular"):
        return None
    half = insert(graph, node, aten.triu.default if given["upper"] else aten.tril.default, system)
    inverse = insert(graph, node, aten.linalg_inv.default, half)
    return _applied(graph, node, inverse, right, left=given.get("left", True))


def _cholesky_solve(graph: Graph, node: Node) -> Node | None:
    given = arguments(node)
    factor, right = given["input2"], given["self"]
    if is_data(factor) or not is_data(right):
        return None
    inverse = insert(graph, node, aten.cholesky_inverse.default, factor, given["upper"])
    return _applied(graph, node, inverse, right)


def _applied(graph: Graph, node: Node, inverse: Node, right: Node, *, left: bool = True, vectors: bool = False) -> Node:
    if vectors:
        column = insert(graph, node, aten.unsqueeze.default, right, -1, like=right)
        column.meta["val"] = fake_value(right).unsqueeze(-1)
        solution = insert(graph, node, aten.matmul.default, inverse, column, like=column)
        solution.meta["val"] = fake_value(node).unsqueeze(-1)
        return insert(graph, node, aten.squeeze.dim, solution, -1, like=node)
    operands = (inverse, right) if left else (right, inverse)
    return insert(graph, node, aten.matmul.default, *operands, like=node)


SOLUTIONS: dict[str, Lowering] = {
    "linalg_solve": _solve,
    "linalg_solve_triangular": _solve_triangular,
    "cholesky_solve": _cholesky_solve,
}

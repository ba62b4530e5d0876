"""Expressions over sizes in an artifact, which PyTorch evaluates as Python when it reads them: arithmetic only.

PyTorch hands a size's expression to `sympy.sympify` and a guard to `exec`: any other text would be run as code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from relprop.errors import ArtifactError

LONGEST = 4000  # characters
LARGEST = 2**63
POWERS = 4  # in one expression: towers of powers take forever, and no size is one
EXPONENT = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT = re.compile(r"[\w\s\[\]().,'=<>!+\-*/%&|~]*", re.ASCII)

_SYMPY = frozenset({
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "And", "Or", "Not",
    "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan",
    "StrictGreaterThan", "floor", "ceiling", "sqrt", "FloorDiv", "ModularIndexing", "Where", "PythonMod",
    "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow",
    "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "IsNonOverlappingAndDenseIndicator", "RoundToInt",
    "RoundDecimal", "ToFloat", "Identity",
})  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_GUARDS = _SYMPY | {"max", "min", "abs", "int", "float", "bool"}
_METHODS = frozenset({"size", "stride", "storage_offset"})
_MODULES = {
    "math": frozenset({"floor", "ceil", "trunc", "sqrt"}),
    "torch": frozenset({"sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite"}),
}

_ARITHMETIC = (
    ast.Expression, ast.Load, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE,
)  # fmt: skip


def check_size(text: object) -> None:
    """Refuse what is no expression over sizes as sympy prints them, such as `Mul(Integer(5), Symbol('s0'))`.

    Raises:
        ArtifactError: it calls, looks up or nests something else.
    """
    _check(text, _in_a_size)


def check_guard(text: object) -> None:
    """Refuse what is no condition on sizes as torch.export writes them, such as `L['x'].size()[1] <= 16`.

    Raises:
        ArtifactError: it calls, looks up or nests something else.
    """
    _check(text, _in_a_guard)


def _check(text: object, allowed: Callable[[ast.AST], bool]) -> None:
    if not isinstance(text, str) or len(text) > LONGEST or not _TEXT.fullmatch(text):
        raise ArtifactError(f"the expression {str(text)[:60]!r} is none over sizes")
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"the expression {text[:60]!r} cannot be read") from error
    if not all(isinstance(node, _ARITHMETIC) or allowed(node) for node in nodes):
        raise ArtifactError(f"the expression {text[:60]!r} does more than compare and compute sizes")
    powers = [node for node in nodes if _is_power(node)]
    if len(powers) > POWERS or any(_exponent(node) > EXPONENT for node in powers):
        raise ArtifactError(f"the expression {text[:60]!r} takes powers that no size has")


def _in_a_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return _is_small(node) or (isinstance(node.value, str) and _is_number_or_name(node.value))
    if isinstance(node, ast.keyword):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, int)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SYMPY
    return isinstance(node, ast.Name) and not node.id.startswith("__")


def _in_a_guard(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return _is_small(node) or (isinstance(node.value, str) and _NAME.fullmatch(node.value) is not None)
    if isinstance(node, ast.Call):
        return not node.keywords and _is_call_of_a_guard(node)
    if isinstance(node, ast.Attribute):
        module = node.value.id if isinstance(node.value, ast.Name) else ""
        return node.attr in _MODULES.get(module, _METHODS)
    if isinstance(node, ast.Subscript):
        index = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
        return isinstance(index, ast.Constant)
    return isinstance(node, ast.Name) and (node.id == "L" or node.id in _GUARDS or node.id in _MODULES)


def _is_call_of_a_guard(node: ast.Call) -> bool:
    if isinstance(node.func, ast.Name):
        return node.func.id in _GUARDS
    if not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr not in _METHODS or not node.args


def _is_small(node: ast.Constant) -> bool:
    return isinstance(node.value, (bool, int, float)) and abs(node.value) <= LARGEST


def _is_number_or_name(text: str) -> bool:
    """The name of a symbol, or a number as `Float('0.5')` has it."""
    return len(text) <= 200 and re.fullmatch(r"[A-Za-z_]\w*|-?[\d.]+(e-?\d{1,3})?", text, re.ASCII) is not None


def _is_power(node: ast.AST) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS
    return named or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow))


def _exponent(node: ast.AST) -> float:
    """The largest number in the exponent."""
    parts = node.args[1:] if isinstance(node, ast.Call) else [node.right] if isinstance(node, ast.BinOp) else []
    found = [each.value for part in parts for each in ast.walk(part) if isinstance(each, ast.Constant)]
    return max((abs(value) for value in found if isinstance(value, (int, float))), default=0.0)

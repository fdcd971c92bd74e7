"""Expressions in Python source, each with its outermost construct."""

import ast
from collections.abc import Iterator, Sequence

_LEAST_CHARACTERS, _MOST_CHARACTERS = 12, 120

# The names are the words of the language reference.
_CONSTRUCTS: dict[type[ast.expr], str] = {
    ast.BinOp: "binary",
    ast.BoolOp: "boolean",
    ast.Call: "call",
    ast.Compare: "comparison",
    ast.Dict: "display",
    ast.List: "display",
    ast.Subscript: "subscription",
    ast.Tuple: "display",
    ast.UnaryOp: "unary",
}


def find_expressions(tree: ast.AST, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(text, construct) of the expressions on one line that are assigned, returned or tested and hold two or
    more constructs. `lines` are ASCII."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return):
            expression = node.value
        elif isinstance(node, ast.If | ast.While | ast.Assert):
            expression = node.test
        else:
            continue
        if expression is None or expression.end_lineno != expression.lineno:
            continue
        text = lines[expression.lineno - 1][expression.col_offset : expression.end_col_offset]
        construct = _CONSTRUCTS.get(type(expression))
        if construct is None or not _LEAST_CHARACTERS <= len(text) <= _MOST_CHARACTERS:
            continue
        if _num_constructs(expression) > 1:
            yield text, construct


def _num_constructs(expression: ast.expr) -> int:
    return len({type(node) for node in ast.walk(expression)} & set(_CONSTRUCTS))

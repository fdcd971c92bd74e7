"""Lines of Python source as words, each with the role that the grammar gives it."""

import ast
import re
from collections.abc import Iterator, Sequence

# A name or a number, a string, or one sign of an operator; strings with blanks are left out with their line.
_WORD = re.compile(r"""\w+|"[^"\s\\]*"|'[^'\s\\]*'|[^\w\s"']""")
_LEAST_WORDS, _MOST_WORDS = 4, 32
# The tag of all that is not a name: keywords, literals and signs.
OTHER = "O"

_Words = list[tuple[str, int]]


def tag_lines(tree: ast.AST, lines: Sequence[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """(line number, words, their tags) of the statements, or heads of statements, that fill one line.

    A name is a function or class that is defined, a parameter, the name of an argument, an imported name, an
    attribute, a method or function that is called, a variable that is assigned, or a variable that is read.
    `lines` are all lines of the module, in ASCII.
    """
    roles = dict(_roles(tree, lines))
    for number in sorted(_lines_of_statements(tree, lines)):
        words = _split(lines[number - 1])
        if words is None or not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
            continue
        yield number, [w for w, _ in words], [roles.get((number, column), OTHER) for _, column in words]


def _split(line: str) -> _Words | None:
    """The words with their columns; None where a piece of the line matches no word."""
    words = [(match[0], match.start()) for match in _WORD.finditer(line)]
    return words if sum(len(word) for word, _ in words) == len("".join(line.split())) else None


def _lines_of_statements(tree: ast.AST, lines: Sequence[str]) -> Iterator[int]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or "#" in lines[node.lineno - 1]:
            continue
        inner = getattr(node, "body", None)
        is_head = inner and inner[0].lineno > node.lineno and lines[node.lineno - 1].endswith(":")
        if is_head or (inner is None and node.end_lineno == node.lineno):
            yield node.lineno


def _roles(tree: ast.AST, lines: Sequence[str]) -> Iterator[tuple[tuple[int, int], str]]:
    """((line, column), role) of names. A call comes after the name that is called, and replaces its role."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            column = lines[node.lineno - 1].find(node.name, node.col_offset + len("def "))
            yield (node.lineno, column), "class" if isinstance(node, ast.ClassDef) else "function"
        elif isinstance(node, ast.arg):
            yield (node.lineno, node.col_offset), "parameter"
        elif isinstance(node, ast.keyword) and node.arg:
            yield (node.lineno, node.col_offset), "argument"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imported(node, lines)
        elif isinstance(node, ast.Name):
            role = "read" if isinstance(node.ctx, ast.Load) else "assigned"
            yield (node.lineno, node.col_offset), role
        elif isinstance(node, ast.Attribute):
            yield _end(node), "attribute"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield (node.func.lineno, node.func.col_offset), "call"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield _end(node.func), "method"


def _end(node: ast.Attribute) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset - len(node.attr)


def _imported(
    node: ast.Import | ast.ImportFrom, lines: Sequence[str]
) -> Iterator[tuple[tuple[int, int], str]]:
    for match in re.compile(r"\w+").finditer(lines[node.lineno - 1], node.col_offset):
        if match[0] not in {"import", "from", "as"}:
            yield (node.lineno, match.start()), "imported"

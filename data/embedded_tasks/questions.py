"""Questions about the source of a function, each with the piece of it that answers, or without an answer."""

import ast
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_MOST_ANSWER = 60

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Question(NamedTuple):
    """`answer` is (start, end), in characters of the source; None where nothing in the source answers."""

    text: str
    answer: tuple[int, int] | None


def ask(source: str, function: ast.stmt) -> Iterator[Question]:
    """Questions that have one answer, or none; a question with several is not asked. `source` is ASCII."""
    assert isinstance(function, _Function)
    starts = [0, *itertools.accumulate(len(line) + 1 for line in source.split("\n"))]
    questions = [*_of_statements(function), *_of_names(function)]
    times = [text for text, _ in questions]
    for text, node in questions:
        if times.count(text) > 1:
            continue
        if node is None:
            yield Question(text, None)
            continue
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        if end - start <= _MOST_ANSWER:
            yield Question(text, (start, end))


def _of_statements(function: _Function) -> Iterator[tuple[str, ast.expr | None]]:
    nodes = list(ast.walk(function))
    kinds: dict[str, Iterable[ast.expr | None]] = {
        "What does it return?": (n.value for n in nodes if isinstance(n, ast.Return)),
        "What does it raise?": (_raised(n) for n in nodes if isinstance(n, ast.Raise)),
        "What does it handle?": (n.type for n in nodes if isinstance(n, ast.ExceptHandler)),
        "What does it loop over?": (n.iter for n in nodes if isinstance(n, ast.For)),
        "What does it test?": (n.test for n in nodes if isinstance(n, ast.If)),
    }
    for question, answers in kinds.items():
        found = [answer for answer in answers if answer is not None]
        yield from ((question, answer) for answer in found or [None])


def _raised(node: ast.Raise) -> ast.expr | None:
    return node.exc.func if isinstance(node.exc, ast.Call) else node.exc


def _of_names(function: _Function) -> Iterator[tuple[str, ast.expr | None]]:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    named = zip(positional + arguments.kwonlyargs, [*defaults, *arguments.kw_defaults], strict=True)
    for argument, default in named:
        if argument.arg not in {"self", "cls"}:
            yield f"What is the default of {argument.arg}?", default
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Attribute):
            yield f"What does it assign to {ast.unparse(node.targets[0])}?", node.value

"""Questions on a definition's head and docstring, each with the piece of that text that answers it, or none."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from flaxmill.data.definitions import Definition

# A row of 128 tokens holds this much and a question.
_MOST_CONTEXT, _MOST_ANSWER = 320, 100

_RETURNS = re.compile(r"\b[Rr]eturns?\s+(.+?)(?=[.;](?:\s|$)|\n\n|$)", re.DOTALL)
_RAISES = re.compile(r"\b[Rr]ais\w+\b[^.]{0,40}?\b([A-Z]\w*(?:Error|Exception|Warning|Interrupt))\b")


class Question(NamedTuple):
    """`start` is the character of the context at which `answer` stands; both None where it holds none."""

    kind: str
    question: str
    answer: str | None
    start: int | None


def make_context(definition: Definition) -> str | None:
    """The head and as many paragraphs of the docstring as fit; None where not even the first does."""
    context = definition.header
    for number, paragraph in enumerate(definition.docstring.split("\n\n")):
        longer = context + "\n" + paragraph
        if len(longer) > _MOST_CONTEXT:
            return context if number else None
        context = longer
    return context


def ask(definition: Definition, context: str) -> Iterator[Question]:
    """All questions; an answer that does not stand in the context is None."""
    name = definition.name
    if definition.is_class:
        yield from _ask_base(definition)
        return
    yield from _ask_defaults(definition)
    text = len(definition.header) + 1
    yield from _ask_match("return", f"What does {name} return?", _RETURNS.search(context, text), context)
    yield from _ask_match("raise", f"What does {name} raise?", _RAISES.search(context, text), context)


def _ask_match(kind: str, question: str, match: re.Match | None, context: str) -> Iterator[Question]:
    """The first group answers. Without a match, the answer is None if the context does not name the kind."""
    if match is not None and len(match[1]) <= _MOST_ANSWER:
        answer = match[1].rstrip()
        yield Question(kind, question, answer, match.start(1))
    elif match is None and not re.search(kind[:4], context, re.IGNORECASE):
        yield Question(kind, question, None, None)


def _ask_defaults(definition: Definition) -> Iterator[Question]:
    tree = _parse(definition.header)
    if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    arguments = tree.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    for argument, default in zip(
        positional + arguments.kwonlyargs, defaults + arguments.kw_defaults, strict=True
    ):
        if argument.arg in {"self", "cls"}:
            continue
        question = f"What is the default of {argument.arg}?"
        yield Question("default", question, *_span(default, definition.header))


def _ask_base(definition: Definition) -> Iterator[Question]:
    tree = _parse(definition.header)
    if isinstance(tree, ast.ClassDef) and len(tree.bases) <= 1:
        base = tree.bases[0] if tree.bases else None
        question = f"What is {definition.name} derived from?"
        yield Question("base", question, *_span(base, definition.header))


def _span(node: ast.expr | None, header: str) -> tuple[str | None, int | None]:
    if node is None:
        return None, None
    return header[node.col_offset : node.end_col_offset], node.col_offset


def _parse(header: str) -> ast.stmt | None:
    try:
        return ast.parse(header + " pass").body[0]
    except SyntaxError:  # a comment stood in it, and swallowed the rest when the lines were joined
        return None

"""Functions, methods and classes of the standard library, as its sources define them."""

import ast
import functools
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from flaxmill.data.text.embedded_corpus import find_sources, library_root

# distutils is gone since Python 3.12: with it, examples would depend on the version far more than needed.
_LEFT_OUT = {"distutils"}

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Definition(NamedTuple):
    """One definition.

    identity: `module:Class.method`, unique.
    group: `module:Class`, the definition at its module's top level that it belongs to.
    is_class: whether it is a class.
    header: the source from `def` or `class` to the colon, on one line.
    docstring: cleaned as `inspect.getdoc` does; "" where there is none.
    body: the rest of the source, dedented; "" where there is none.
    """

    identity: str
    group: str
    is_class: bool
    header: str
    docstring: str
    body: str

    @property
    def module(self) -> str:
        return self.identity.partition(":")[0]

    @property
    def name(self) -> str:
        return re.split("[.:]", self.identity)[-1]


@functools.cache
def read_definitions() -> tuple[Definition, ...]:
    """All definitions of more than one line, in a fixed order; only the first of a name counts."""
    found: dict[str, Definition] = {}
    for module, source in read_modules():
        lines = source.split("\n")  # splitlines also cuts at form feeds, which do not end a line of Python
        for names, node in _walk(parse_source(source).body, ()):
            if (definition := _describe(module, names, node, lines)) is not None:
                found.setdefault(definition.identity, definition)
    return tuple(found.values())


def read_modules() -> Iterator[tuple[str, str]]:
    """(dotted name, source) of the modules that are ASCII, so that columns in bytes are places in text."""
    for path, _ in find_sources():
        parts = path.relative_to(library_root()).with_suffix("").parts
        if parts[0] not in _LEFT_OUT and (source := path.read_bytes()).isascii():
            yield ".".join(parts).removesuffix(".__init__"), source.decode().replace("\r\n", "\n")


def parse_source(source: str) -> ast.Module:
    """The syntax tree; an empty tree where a distribution ships a module in another Python's syntax."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except SyntaxError:
            return ast.Module([], [])


def _walk(
    statements: list[ast.stmt], names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], _Definition]]:
    """Definitions in modules and classes, also under `if` and `try`, but not inside functions."""
    for node in statements:
        if isinstance(node, _Definition):
            yield (*names, node.name), node
        if isinstance(node, ast.ClassDef):
            yield from _walk(node.body, (*names, node.name))
        elif isinstance(node, ast.If | ast.Try):
            yield from _walk(node.body + node.orelse, names)


def _describe(module: str, names: tuple[str, ...], node: _Definition, lines: list[str]) -> Definition | None:
    first, docstring = node.body[0], ast.get_docstring(node) or ""
    if first.lineno == node.lineno or not docstring.isascii():
        return None
    # A decorator of the first inner definition belongs to the body.
    start = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))])
    rest = (first.end_lineno or start) if docstring else start - 1
    return Definition(
        identity=f"{module}:{'.'.join(names)}",
        group=f"{module}:{names[0]}",
        is_class=isinstance(node, ast.ClassDef),
        header=" ".join(" ".join(lines[node.lineno - 1 : start - 1]).split()),
        docstring=docstring,
        body=textwrap.dedent("\n".join(lines[rest : node.end_lineno])).strip("\n"),
    )

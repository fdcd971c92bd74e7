"""Pieces of HTML. Every text is escaped here, so that no name, sample or value of a run can write markup."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

MAX_CHARACTERS = 4000


class Html(str):
    """A piece of HTML, to be told from a text."""


def text(value: str) -> Html:
    """The text, escaped unless it is HTML already; a long one is cut, and half of a character is a ?."""
    if isinstance(value, Html):
        return value
    cut = value if len(value) <= MAX_CHARACTERS else f"{value[: MAX_CHARACTERS - 1]}…"
    return Html(escape(cut.encode("utf-8", "replace").decode("utf-8")))


def element(tag: str, *inside: str, **attributes: str | bool) -> Html:
    """An element with these pieces inside, texts and HTML.

    An attribute's value is escaped, True has none, False is absent; class_ is class, data_run data-run.
    """
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(str(value))}"')
        for name, value in attributes.items()
        if value is not False
    )
    return Html(f"<{tag}{written}>{''.join(map(text, inside))}</{tag}>")


def joined(pieces: Iterable[str]) -> Html:
    """The pieces, one a line."""
    return Html("\n".join(map(text, pieces)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = "") -> Html:
    """A table with a heading for each column; the first cell of a row is its heading.

    On a narrow screen the style stacks the cells of a row, each beside its column's heading.
    """
    header = element("tr", *(element("th", name, scope="col") for name in head))
    inside = element("thead", header), element("tbody", *(_row(head, row) for row in rows))
    return element("table", *inside, class_=class_ or False)


def _row(head: Sequence[str], row: Sequence[str]) -> Html:
    first, *others = row
    cells = (element("td", cell, data_head=name) for name, cell in zip(head[1:], others, strict=True))
    return element("tr", element("th", first, scope="row"), *cells)


def script_json(value: Any) -> Html:
    """The value as JSON that cannot end the script element that it stands in."""
    written = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

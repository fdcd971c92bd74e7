"""Prints lines in colour where stdout is a terminal that wants it, else as plain text."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from flaxmill.data.show import LEGEND, Line, Span, Style

_STYLES: Mapping[Style, str] = {
    "title": "bold",
    "border": "bold blue",
    "text": "",
    "special": "dim",
    "second": "cyan",
    "prefix": "cyan",
    "masked": "black on yellow",
    "predicted": "bold yellow",
    "target": "bold green",
}


def wants_color(stream: TextIO) -> bool:
    """Whether escapes may be written: to a terminal, unless NO_COLOR is set or the terminal knows none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_lines(lines: Sequence[Line]) -> None:
    """Prints the lines; in colour, what the colours mean comes first."""
    if not wants_color(sys.stdout):
        for line in lines:
            print("".join(span.text for span in line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=sys.stdout, force_terminal=True, color_system="standard", highlight=False, soft_wrap=True
    )
    used = {span.style for line in lines for span in line}
    legend = [Span(meaning, style) for style, meaning in LEGEND.items() if style in used]
    for line in [tuple(part for span in legend for part in (span, Span("  "))), *lines]:
        text = Text()
        for span in line:
            text.append(span.text, style=_STYLES[span.style])
        console.print(text)

"""A dataset described as one HTML page, with pictures and without scripts or anything from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from flaxmill.data.card import SPLIT_NAMES, card_as_json, describe_duplicates
from flaxmill.data.prepared.dataset import Dataset

# Lengths in pixels.
_WIDTH, _HEIGHT, _MARGIN = 640, 180, 24
_ROW, _NAME_WIDTH, _COUNT_WIDTH = 22, 180, 150
_MOST_LABELS = 60
_MOST_CHARACTERS = 26

# Numbers that the page says in sentences.
_IN_SENTENCES = {
    "num_duplicates",
    "num_near_duplicates",
    "num_dropped",
    "contaminated_tokens",
    "num_contaminated",
    "num_checked",
    "run_length",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #ffffff; --faint: #d0d7de; --bar: #2f6f9f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --paper: #15191f; --faint: #39414c; --bar: #6cb2e6; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 720px; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; overflow-wrap: anywhere;
         border-bottom: 1px solid var(--faint); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--faint); }
"""


class Bar(NamedTuple):
    """A bar of a picture."""

    name: str
    count: int
    note: str


def make_page(parts: Mapping[str, Dataset]) -> str:
    """The page of a dataset, or of a mixture's datasets by the names of their sources."""
    title = ", ".join(dict.fromkeys(dataset.corpus for dataset in parts.values()))
    cards = {source: card_as_json(dataset) for source, dataset in parts.items()}
    body = [f"<h1>{escape(title)}</h1>", *draw_cards(cards)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def draw_cards(cards: Mapping[str, Mapping[str, Any]], level: int = 2) -> list[str]:
    """Pieces of HTML: cards as `card_as_json` gives them, by the names of their sources.

    Args:
      level: of their headings; below them are headings of the next two levels.
    """
    pieces = []
    if len(cards) > 1:
        title = "Training tokens by source"
        pieces += [f"<h{level}>{title}</h{level}>", draw_rows(_sources(cards), title)]
    for source, card in cards.items():
        pieces += [f"<h{level}>{escape(source)}</h{level}>"] if source else []
        pieces += _section(card, level + 1)
    return pieces


def draw_columns(bars: Sequence[Bar], title: str) -> str:
    """An SVG picture with a column for each bar."""
    most = max(bar.count for bar in bars)
    room, step = _HEIGHT - 2 * _MARGIN, _WIDTH / len(bars)
    parts = [_opening(_WIDTH, _HEIGHT, title)]
    parts.append(f'<line x1="0" y1="{_MARGIN + room}" x2="{_WIDTH}" y2="{_MARGIN + room}"/>')
    every = -(-len(bars) // 12)  # names that do not run into one another
    for number, bar in enumerate(bars):
        height, left = room * bar.count / most, number * step
        parts.append(
            f'<rect x="{left + step * 0.1:.1f}" y="{_MARGIN + room - height:.1f}" width="{step * 0.8:.1f}" '
            f'height="{height:.1f}"><title>{escape(bar.note)}</title></rect>'
        )
        if number % every == 0:
            parts.append(_centred(left + step / 2, _HEIGHT - 6, bar.name))
    tallest = max(range(len(bars)), key=lambda number: bars[number].count)
    middle = min(max(tallest * step + step / 2, 30), _WIDTH - 30)
    parts.append(_centred(middle, _MARGIN - 6, f"{most:,}"))
    return "\n".join([*parts, "</svg>"])


def draw_rows(bars: Sequence[Bar], title: str) -> str:
    """An SVG picture with a row for each bar: its name, the bar, its note."""
    most = max([1, *(bar.count for bar in bars)])
    room = _WIDTH - _NAME_WIDTH - _COUNT_WIDTH
    parts = [_opening(_WIDTH, _ROW * len(bars), title)]
    for number, bar in enumerate(bars):
        top = number * _ROW
        width = room * bar.count / most
        name = bar.name if len(bar.name) <= _MOST_CHARACTERS else f"{bar.name[: _MOST_CHARACTERS - 1]}…"
        called = f"{escape(name)}<title>{escape(bar.name)}</title>"
        parts += [
            f'<text x="{_NAME_WIDTH - 8}" y="{top + 15}" text-anchor="end">{called}</text>',
            f'<rect x="{_NAME_WIDTH}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}"/>',
            f'<text x="{_NAME_WIDTH + width + 6:.1f}" y="{top + 15}">{escape(bar.note)}</text>',
        ]
    return "\n".join([*parts, "</svg>"])


def _centred(x: float, y: int, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{escape(text)}</text>'


def _opening(width: int, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">'
    )


def _section(card: Mapping[str, Any], level: int) -> list[str]:
    facts = {
        "source": card["source"],
        "directory": card["directory"],
        "fingerprint": card["fingerprint"],
        "rows": f"{card['layout']}, {card['sequence_length']:,} tokens",
        "tokenizer": f"{card['vocab_size']:,} ids",
    }
    parts = [_table(list(facts.items()))]
    for split, title in SPLIT_NAMES.items():
        statistics = card["statistics"][split]
        what = "Examples" if "num_examples" in statistics else "Documents"
        parts.append(f"<h{level}>{title.capitalize()}</h{level}>")
        described = list(describe_duplicates(statistics).items())
        parts.append(_table(_numbers(statistics) + described))
        if bins := card["lengths"][split]:
            heading = f"{what} by their length in tokens, {title}"
            parts += [
                _heading(heading, level + 1),
                draw_columns([_length_bar(*one) for one in bins], heading),
            ]
        if labels := _label_bars(card["labels"], statistics):
            heading = f"Labels, {title}"
            parts += [_heading(heading, level + 1), draw_rows(labels[:_MOST_LABELS], heading)]
            if len(labels) > _MOST_LABELS:
                parts.append(f"<p>and {len(labels) - _MOST_LABELS:,} more labels</p>")
    return parts


def _heading(text: str, level: int) -> str:
    return f"<h{level}>{text}</h{level}>"


def _numbers(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The single numbers of a split, with names that can be read."""
    return [
        (
            name.removeprefix("num_").replace("_", " "),
            f"{value:,}" if isinstance(value, int) else f"{value:.4f}",
        )
        for name, value in statistics.items()
        if isinstance(value, int | float) and name not in _IN_SENTENCES
    ]


def _length_bar(least: int, greatest: int, count: int) -> Bar:
    return Bar(f"{least:,}", count, f"{least:,} to {greatest:,} tokens: {count:,}")


def _label_bars(names: Sequence[str], statistics: Mapping[str, Any]) -> list[Bar]:
    counts = statistics.get("applied_counts", statistics.get("label_counts", ()))
    total = max(statistics["num_examples"] if "applied_counts" in statistics else sum(counts), 1)
    return [
        Bar(label, count, f"{count:,} ({count / total:.1%})")
        for label, count in zip(names, counts, strict=bool(counts))
    ]


def _sources(cards: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    counts = {name: card["statistics"]["train"]["num_tokens"] for name, card in cards.items()}
    total = max(sum(counts.values()), 1)
    return [Bar(name, count, f"{count:,} ({count / total:.1%})") for name, count in counts.items()]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = (
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(value)}</td></tr>'
        if value[:1].isdigit() and len(value) < 30
        else f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return "<table>\n" + "\n".join(cells) + "\n</table>"

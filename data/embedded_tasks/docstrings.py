"""Finds docstrings of the library that repeat others, and the text that a first line sums up."""

import functools
import re
from collections.abc import Callable, Iterable

from flaxmill.data.embedded_tasks.definitions import Definition, read_definitions

# A docstring repeats others if more than this share of its word triples is in them.
_MOST_REPEATED = 0.5
_LEAST_WORDS = 6
_LEAST_SUMMARY_WORDS = 3
_MOST_TEXT = 280  # characters: a row of 128 tokens holds them and the summary

_Triples = set[tuple[str, ...]]


@functools.cache
def distinct_definitions() -> tuple[Definition, ...]:
    """Definitions with docstrings that repeat one another little.

    The longest are chosen first, since they contain the shorter ones.
    """
    definitions = read_definitions()
    words = {number: _words(definition.docstring) for number, definition in enumerate(definitions)}
    chosen: list[int] = []
    seen: _Triples = set()
    for number in sorted(words, key=lambda number: -len(words[number])):
        triples = _triples(words[number])
        if len(words[number]) >= _LEAST_WORDS and len(triples & seen) <= _MOST_REPEATED * len(triples):
            seen |= triples
            chosen.append(number)
    return tuple(definitions[number] for number in sorted(chosen))


def make_repeats(others: Iterable[Definition]) -> Callable[[Definition], bool]:
    """A function that says whether a docstring repeats these others, or has the first line of one of them."""
    docstrings = [definition.docstring for definition in others]
    seen: _Triples = set().union(*(_triples(_words(docstring)) for docstring in docstrings))
    lines = {_first_line(docstring) for docstring in docstrings}

    def repeats(definition: Definition) -> bool:
        triples = _triples(_words(definition.docstring))
        is_alike = len(triples & seen) > _MOST_REPEATED * len(triples)
        return is_alike or _first_line(definition.docstring) in lines

    return repeats


def sum_up(definition: Definition) -> tuple[str, str] | None:
    """(text, summary): the summary is the docstring's first line.

    The text is the words of the name, the header, the rest of the docstring and the front of the source. None
    where the first line is not a whole sentence, or says nothing in words.
    """
    first, _, rest = definition.docstring.partition("\n")
    is_whole = not rest or rest.startswith("\n") or first.endswith((".", ":"))
    text = "\n".join(filter(None, (rest.strip(), definition.body)))[:_MOST_TEXT]
    if not (is_whole and text) or " -> " in first or len(first.split()) < _LEAST_SUMMARY_WORDS:
        return None
    return "\n".join((name_words(definition.name), definition.header, text)), first


def name_words(name: str) -> str:
    """`getFileType`, `get_file_type`: get file type."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


def _words(docstring: str) -> list[str]:
    return re.findall(r"\w+", docstring.lower())


def _triples(words: list[str]) -> _Triples:
    return set(zip(words, words[1:], words[2:], strict=False))


def _first_line(docstring: str) -> str:
    return docstring.partition("\n")[0].lower()

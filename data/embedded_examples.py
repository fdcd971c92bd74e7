"""Labelled examples for every task objective, made from what is inside the running Python."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from flaxmill.data.definition_questions import ask, make_context
from flaxmill.data.definitions import Definition, parse_source, read_definitions, read_modules
from flaxmill.data.draws import EMBEDDED_EXAMPLES, permute, uniform
from flaxmill.data.library_areas import area_of
from flaxmill.data.notations import draw_notations
from flaxmill.data.source_roles import tag_lines

Example = dict[str, Any]

_HELD_OUT_SHARE = 0.15
_SPLIT, _PARTNER, _QUESTION, _MODULE = range(2, 6)  # second keys of draws; 1 is that of the notations
# A docstring of which more than this share of the word triples stood in earlier ones repeats them.
_MOST_REPEATED = 0.5
_LEAST_WORDS = 6
_MOST_CODE, _MOST_TEXT = 200, 200  # characters of either side of a pair: a row of 128 tokens holds both
_UNANSWERABLE_SHARE = 0.15
_TAGGED_MODULES_SHARE = 0.15


def embedded_examples(task: str) -> Iterator[Example]:
    """The task's examples in a fixed order, with the columns that DataConfig names, `id` and `split`.

    Split "valid" holds about 15%. What is alike stays together: all definitions of one class, all lines of one
    module; docstrings that mostly repeat earlier ones are left out. Python's version decides the rest.

    Args:
      task: classification, pairs, answers, tags, summaries or translation.
    """
    return _TASKS[task]()


def _classification() -> Iterator[Example]:
    """`text`: a docstring's first paragraph below the definition's head; `label`: the library's area."""
    for definition in _distinct_definitions():
        if area := area_of(definition.module):
            yield _example(definition, text=definition.docstring, label=area)


def _pairs() -> Iterator[Example]:
    """`text`: source without its docstring; `pair`: a docstring; `label`: whether it is that source's, or one
    of another. Each text stands in one pair of either label, so that neither alone tells."""
    splits: dict[str, list[Definition]] = {"train": [], "valid": []}
    for definition in _distinct_definitions():
        if not definition.is_class and definition.body:
            splits[_split(definition.group)].append(definition)
    for definitions in splits.values():
        others = permute(range(len(definitions)), len(definitions), EMBEDDED_EXAMPLES, _PARTNER)
        for number, definition in enumerate(definitions):
            text = f"{definition.header}\n{definition.body}"[:_MOST_CODE]
            for label, partner in (("same", definition), ("other", definitions[others[number]])):
                if label == "same" or partner is not definition:
                    pair = partner.docstring[:_MOST_TEXT]
                    yield _example(definition, label, text=text, pair=pair, label=label)


def _answers() -> Iterator[Example]:
    """SQuAD's columns: `question`, `context`, `answers` (text and answer_start), `is_impossible`."""
    for definition in _distinct_definitions():
        if (context := make_context(definition)) is None:
            continue
        for number, (kind, question, answer, start) in enumerate(ask(definition, context)):
            if answer is None and _draw(_QUESTION, f"{definition.identity} {question}") > 0.2:
                continue
            found = [] if answer is None else [{"text": answer, "answer_start": start}]
            yield _example(
                definition,
                f"{kind}{number}",
                question=question,
                context=context,
                answers=found,
                is_impossible=answer is None,
            )


def _tags() -> Iterator[Example]:
    """`text`: the words of a line of source; `label`: the role of each."""
    seen: set[tuple[str, ...]] = set()
    for module, source in read_modules():
        if _draw(_MODULE, module) >= _TAGGED_MODULES_SHARE:
            continue
        for line, words, tags in tag_lines(source):
            if tuple(words) not in seen:
                seen.add(tuple(words))
                yield dict(id=f"{module}:{line}", split=_split(module), text=words, label=tags)


def _summaries() -> Iterator[Example]:
    """`text`: a docstring without its first line; `target`: that line."""
    for definition in _distinct_definitions():
        first, _, rest = definition.docstring.partition("\n\n")
        if rest.strip() and len(first.split()) >= 3 and "\n" not in first:
            yield _example(definition, text=rest.strip(), target=first)


def _translation() -> Iterator[Example]:
    """`text`: arithmetic in infix notation; `target`: the same in reverse Polish."""
    for infix, reverse_polish in draw_notations():
        yield dict(id=infix, split=_split(infix), text=infix, target=reverse_polish)


_TASKS: dict[str, Callable[[], Iterator[Example]]] = {
    "classification": _classification,
    "pairs": _pairs,
    "answers": _answers,
    "tags": _tags,
    "summaries": _summaries,
    "translation": _translation,
}


def _distinct_definitions() -> Iterator[Definition]:
    seen: set[tuple[str, ...]] = set()
    for definition in read_definitions():
        words = re.findall(r"\w+", definition.docstring.lower())
        triples = set(zip(words, words[1:], words[2:], strict=False))
        if len(words) >= _LEAST_WORDS and len(triples & seen) <= _MOST_REPEATED * len(triples):
            seen |= triples
            yield definition


def _example(definition: Definition, suffix: str = "", /, **columns: Any) -> Example:
    identity = definition.identity + (f"#{suffix}" if suffix else "")
    return dict(id=identity, split=_split(definition.group), **columns)


def _split(group: str) -> str:
    return "valid" if _draw(_SPLIT, group) < _HELD_OUT_SHARE else "train"


def _draw(use: int, name: str) -> float:
    """A number in [0, 1) that the name alone decides, on every machine."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
    return float(uniform(EMBEDDED_EXAMPLES, use, key)[0])

"""Labelled examples for every task objective, made from what is inside the running Python."""

import ast
import collections
import functools
import hashlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from flaxmill.data.draws import EMBEDDED_EXAMPLES, uniform
from flaxmill.data.embedded_tasks.areas import area_of
from flaxmill.data.embedded_tasks.chats import ask_about
from flaxmill.data.embedded_tasks.definitions import Definition, parse_source, read_definitions, read_modules
from flaxmill.data.embedded_tasks.docstrings import distinct_definitions, make_repeats, sum_up
from flaxmill.data.embedded_tasks.expressions import find_expressions
from flaxmill.data.embedded_tasks.notations import draw_notations
from flaxmill.data.embedded_tasks.questions import ask
from flaxmill.data.embedded_tasks.roles import tag_lines
from flaxmill.data.embedded_tasks.statements import judge

EmbeddedExample = dict[str, Any]

_HELD_OUT_SHARE = 0.15
_SPLIT, _QUESTION, _SAMPLE = range(2, 5)  # second keys of draws; the notations use 1

_MOST_SOURCE = 280  # characters: a row of 128 tokens holds them, and a statement or question
# The shares of functions and modules that are used: all are more than a few minutes of training read.
_FUNCTIONS_SHARE, _EXPRESSIONS_SHARE, _LINES_SHARE = 0.6, 0.5, 0.3
_PREFERENCES_SHARE = 0.3
_MOST_OF_A_LABEL = 1200
_STATEMENTS_OF_A_FUNCTION = 2
_UNANSWERABLE_SHARE = 0.06  # of the questions without an answer, since most questions have none


def embedded_examples(task: str) -> Iterator[EmbeddedExample]:
    """The task's examples in a fixed order, with the columns that DataConfig names, `id` and `split`.

    Split "valid" holds about 15%. Similar examples stay in one split, such as all that one class defines, and
    repeats are left out. Python's version decides the rest.

    Args:
      task: classification, areas, pairs, answers, tags, summaries, translation, conversations, preferences
        or matches.
    """
    return TASKS[task]()


def _classification() -> Iterator[EmbeddedExample]:
    """`text`: an expression; `label`: its outermost construct, a call, a comparison and so on."""
    found: dict[str, EmbeddedExample] = {}
    for group, tree, lines in _top_level(_EXPRESSIONS_SHARE):
        for text, construct in find_expressions(tree, lines):
            found.setdefault(text, dict(id=text, split=_split(group), text=text, label=construct))
    counts = collections.Counter(example["label"] for example in found.values())
    for text, example in found.items():
        if _draw(_SAMPLE, text) < _MOST_OF_A_LABEL / counts[example["label"]]:
            yield example


def _areas() -> Iterator[EmbeddedExample]:
    """`text`: a docstring; `label`: the area of the library. The docstring's words alone tell much."""
    for definition in distinct_definitions():
        if area := area_of(definition.module):
            yield _example(definition, text=definition.docstring, label=area)


def _pairs() -> Iterator[EmbeddedExample]:
    """`text`: a function; `pair`: a statement about it; `label`: whether the statement holds, yes or no.

    Each statement holds as often as not, so that the statement alone does not tell the label. The function
    alone tells a little: more statements are true of a long one.
    """
    balance: collections.Counter[tuple[str, str]] = collections.Counter()
    for definition, source, tree in _functions():
        judged, split = judge(tree), _split(definition.group)
        signs = {statement: 1 if holds else -1 for statement, holds in judged.items()}
        # First the statements with an answer here that most evens out their answers so far.
        statements = sorted(
            signs, key=lambda said, split=split, signs=signs: signs[said] * balance[split, said]
        )
        for statement in statements[:_STATEMENTS_OF_A_FUNCTION]:
            balance[split, statement] += signs[statement]
            label = "yes" if judged[statement] else "no"
            yield _example(definition, statement, text=source, pair=statement, label=label)


def _answers() -> Iterator[EmbeddedExample]:
    """SQuAD's columns: `question`, `context`, `answers` (text and answer_start), `is_impossible`."""
    for definition, source, tree in _functions():
        for question, answer in ask(source, tree):
            if answer is None and _draw(_QUESTION, definition.identity + question) >= _UNANSWERABLE_SHARE:
                continue
            answers = [] if answer is None else [dict(text=source[slice(*answer)], answer_start=answer[0])]
            columns = dict(question=question, context=source, answers=answers, is_impossible=not answers)
            yield _example(definition, question, **columns)


def _tags() -> Iterator[EmbeddedExample]:
    """`text`: the words of a line of source; `label`: the role of each."""
    seen: set[tuple[str, ...]] = set()
    for group, tree, lines in _top_level(_LINES_SHARE):
        for line, words, tags in tag_lines(tree, lines):
            if tuple(words) not in seen:
                seen.add(tuple(words))
                identity = f"{group.partition(':')[0]}:{line}"
                yield dict(id=identity, split=_split(group), text=words, label=tags)


def _summaries() -> Iterator[EmbeddedExample]:
    """`text`: see `sum_up`; `target`: the first line of a docstring.

    The held-out definitions have docstrings that repeat no others. All definitions that do not repeat these
    are learned from, though they may repeat one another: there are few, and a small model needs every one.
    """
    held_out = [one for one in distinct_definitions() if _split(one.group) == "valid" and sum_up(one)]
    repeats = make_repeats(held_out)
    learned = (one for one in read_definitions() if _split(one.group) == "train" and not repeats(one))
    found: set[tuple[str, str]] = set()
    for definition in (*learned, *held_out):
        summed_up = sum_up(definition)
        if summed_up and summed_up not in found:
            found.add(summed_up)
            yield _example(definition, text=summed_up[0], target=summed_up[1])


def _matches() -> Iterator[EmbeddedExample]:
    """`text`: the first line of a docstring; `pair`: what `sum_up` leaves of the definition without it."""
    for example in _summaries():
        yield {name: value for name, value in example.items() if name != "target"} | dict(
            text=example["target"], pair=example["text"]
        )


def _translation() -> Iterator[EmbeddedExample]:
    """`text`: arithmetic in infix notation; `target`: the same in reverse Polish."""
    for infix, reverse_polish in draw_notations():
        yield dict(id=infix, split=_split(infix), text=infix, target=reverse_polish)


def _conversations() -> Iterator[EmbeddedExample]:
    """`messages`: questions about a definition with a docstring, and their answers."""
    for definition in distinct_definitions():
        if messages := ask_about(definition, has_system=_draw(_SAMPLE, definition.identity) < 0.5):
            yield _example(definition, messages=messages)


def _preferences() -> Iterator[EmbeddedExample]:
    """`prompt`: a conversation about a definition up to a question; `chosen`: its answer; `rejected`: the
    answer to another question about the same definition.

    Each answer is chosen once and rejected once, so that an answer alone does not tell which it is.
    """
    for definition in distinct_definitions():
        if _draw(_SAMPLE, definition.identity) >= _PREFERENCES_SHARE:
            continue
        messages = ask_about(definition, has_system=False)
        answers = messages[1::2]
        for number, answer in enumerate(answers if len(answers) > 1 else []):
            prompt, other = messages[: 2 * number + 1], answers[(number + 1) % len(answers)]
            yield _example(definition, str(number), prompt=prompt, chosen=[answer], rejected=[other])


TASKS: dict[str, Callable[[], Iterator[EmbeddedExample]]] = {
    "classification": _classification,
    "areas": _areas,
    "pairs": _pairs,
    "answers": _answers,
    "tags": _tags,
    "summaries": _summaries,
    "translation": _translation,
    "conversations": _conversations,
    "preferences": _preferences,
    "matches": _matches,
}


def _top_level(share: float) -> Iterator[tuple[str, ast.stmt, list[str]]]:
    """(group, statement, lines of its module) of the statements at the top of a share of the modules."""
    for module, source in read_modules():
        if _draw(_SAMPLE, module) < share:
            lines = source.split("\n")
            for node in parse_source(source).body:
                yield f"{module}:{getattr(node, 'name', node.lineno)}", node, lines


@functools.cache
def _functions() -> tuple[tuple[Definition, str, ast.stmt], ...]:
    """Short functions that differ from one another, with their source and its syntax, without docstrings."""
    found: dict[str, tuple[Definition, str, ast.stmt]] = {}
    for definition in read_definitions():
        source = f"{definition.header}\n{textwrap.indent(definition.body, '    ')}"
        if definition.is_class or not definition.body or len(source) > _MOST_SOURCE or source in found:
            continue
        if _draw(_SAMPLE, definition.identity) < _FUNCTIONS_SHARE and (body := parse_source(source).body):
            found[source] = definition, source, body[0]
    return tuple(found.values())


def _example(definition: Definition, suffix: str = "", /, **columns: Any) -> EmbeddedExample:
    identity = definition.identity + (f"#{suffix}" if suffix else "")
    return dict(id=identity, split=_split(definition.group), **columns)


def _split(group: str) -> str:
    return "valid" if _draw(_SPLIT, group) < _HELD_OUT_SHARE else "train"


def _draw(use: int, name: str) -> float:
    """A number in [0, 1) that the name alone decides, on every machine."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
    return float(uniform(EMBEDDED_EXAMPLES, use, key)[0])

"""Labelled examples: what a task reads from a row and what it must answer, checked row by row."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.data.files.rows import BLANKS, Row, check_unicode, is_missing, unreadable
from flaxmill.data.messages import did_you_mean
from flaxmill.data.objectives import ExampleKind, examples_of, find_function

_MAX_NUMBER = 2.0**127  # numbers are stored and learned in float32, which holds so much

LABEL_SEPARATOR = "|"
"""Put between the labels of an example in a CSV or TSV; other formats have lists."""


class Answer(NamedTuple):
    """A piece of a context and the character at which it starts."""

    text: str
    start: int


class Example(NamedTuple):
    """One labelled example.

    texts: the text, or both of a pair; the words of a tagged sentence; question and context; the source.
    wanted: a label's string, a number, or the list of the labels that apply; the list of tags; the list of
      Answers; the target. None where the config names no column for it.
    columns: the row as it is in its file.
    place: where the row is.
    """

    texts: tuple[str, ...]
    wanted: Any
    columns: dict[str, Any]
    place: str


def make_examples(rows: Iterator[Row], config: DataConfig, objective: str) -> Iterator[Example]:
    """Makes examples of rows. Raises ValueError, naming file and row, for a row that cannot be used."""
    kind = examples_of(objective)
    read = find_function(kind.read)
    file = None
    for row in rows:
        if row.file != file:
            _check_columns(row, config, objective, kind)
            file = row.file
        yield read(row, config)


def _check_columns(row: Row, config: DataConfig, objective: str, kind: ExampleKind) -> None:
    """Checks a file's columns by its first row: a column that this row lacks is not in the file."""
    for column in kind.columns:
        if column not in row.values:
            what = f"objective={objective} reads the column {column!r}, which is"
            raise _no_column(what, row, column, "rename one of these")
    for field in kind.column_fields:
        column = getattr(config, field)
        if column is not None and column not in row.values:
            may_miss = field == kind.answer_column
            fix = "name one of these, or None to predict" if may_miss else "name one of these"
            raise _no_column(f"data.{field}={column!r} is", row, column, fix)


def _no_column(what: str, row: Row, column: str, fix: str) -> ValueError:
    names = [str(name) for name in row.values]
    has = f"{what} not a column of {row.file}; it has {', '.join(names)}"
    return ValueError(f"{has}; {did_you_mean(column, names) or fix}")


def read_labelled(row: Row, config: DataConfig) -> Example:
    """A text or a pair with its label, number or labels."""
    return Example(read_texts(row, config), _label(row, config), row.values, row.place)


def read_texts(row: Row, config: DataConfig) -> tuple[str, ...]:
    """The text of a row, or both of a pair. Raises ValueError for one that is empty or no text."""
    columns = [config.text_column, *([] if config.pair_column is None else [config.pair_column])]
    return tuple(_text(row, column) for column in columns)


def _label(row: Row, config: DataConfig) -> str | float | list[str] | None:
    column = config.label_column
    if column is None:
        return None
    value = row.values.get(column)
    if config.label_type == "multi_label":
        return _labels(value, row, column)
    if is_missing(value):
        raise _no_label(row, column)
    return _category(value, row, column) if config.label_type == "category" else _number(value, row, column)


def _no_label(row: Row, column: str) -> ValueError:
    return ValueError(f"{row.place} has no label in the column {column!r}; give it one, or delete the row")


def _category(value: Any, row: Row, column: str) -> str:
    if not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise ValueError(f"{row.place}: {column!r} holds {value!r:.60}, which is not a label; give a string")
    if not isinstance(value, str):
        return str(value)
    check_unicode(value, row.place, column)
    return value.strip()


def _labels(value: Any, row: Row, column: str) -> list[str]:
    """Labels from a list, or from a CSV's string with a | between two; [] if none applies."""
    if isinstance(value, str):
        value = value.split(LABEL_SEPARATOR) if value.strip() else []
    if not isinstance(value, list):
        if is_missing(value):
            raise ValueError(
                f"{row.place} has no labels in the column {column!r}; give [] where none applies"
            )
        raise ValueError(
            f"{row.place}: {column!r} holds {value!r:.60}, which is not a list of labels; give one, or a "
            f"string with {LABEL_SEPARATOR} between two"
        )
    labels = []
    for one in value:
        if is_missing(one):
            raise ValueError(f"{row.place}: {column!r} has a label without a name; delete it from the list")
        labels.append(_category(one, row, column))
    return sorted(set(labels))


def _number(value: Any, row: Row, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if _MAX_NUMBER < abs(number) < math.inf:
        raise ValueError(
            f"{row.place}: the label {value!r:.60} in {column!r} is beyond float32; scale the labels"
        )
    if not math.isfinite(number):
        raise ValueError(
            f"{row.place}: the label {value!r:.60} in {column!r} is not a number, which "
            "data.label_type=number needs; correct it, or use data.label_type=category"
        )
    return number


def read_tagged(row: Row, config: DataConfig) -> Example:
    """A list of words with the list of their tags."""
    words = _strings(row, config.text_column, "words")
    if blank := [number for number, word in enumerate(words, start=1) if not word.strip(BLANKS)]:
        raise ValueError(
            f"{row.place}: word {blank[0]} in {config.text_column!r} is empty; delete it and its tag"
        )
    tags = None
    if config.label_column is not None:
        tags = _strings(row, config.label_column, "tags")
        if len(tags) != len(words):
            raise ValueError(
                f"{row.place} has {len(words)} words and {len(tags)} tags; give each word one tag"
            )
        if untagged := [word for word, tag in zip(words, tags, strict=True) if is_missing(tag)]:
            raise ValueError(f"{row.place}: {untagged[0]!r:.60} has no tag beside it; give it one")
    return Example(tuple(words), tags, row.values, row.place)


def _strings(row: Row, column: str, what: str) -> list[str]:
    values = row.values.get(column)
    if not isinstance(values, list):
        raise ValueError(
            f"{row.place}: {column!r} holds {values!r:.60}, which is not a list of {what}; give a .jsonl "
            "with lists, or a .conll file with a word and a tag on each line"
        )
    if not values:
        raise ValueError(f"{row.place}: {column!r} holds no {what}; fill it, or delete the row")
    if odd := [value for value in values if not isinstance(value, str | int)]:
        raise ValueError(f"{row.place}: {column!r} holds {odd[0]!r:.60} among its {what}; give strings")
    check_unicode("".join(map(str, values)), row.place, column)
    return [str(value) for value in values]


def read_question(row: Row, config: DataConfig) -> Example:
    """A question and its context, with the answers that the context has."""
    question, context = _text(row, "question").lstrip(), _text(row, "context")
    answers = [] if _is_impossible(row) else [_within(answer, context, row) for answer in _answers(row)]
    return Example((question, context), answers, row.values, row.place)


def _is_impossible(row: Row) -> bool:
    value = row.values.get("is_impossible")
    if value is not None and not is_missing(value) and value not in (True, False):
        raise ValueError(
            f"{row.place}: is_impossible={value!r:.60} is neither true nor false; give one of them"
        )
    return not is_missing(value) and bool(value)


def _answers(row: Row) -> list[Answer]:
    """Answers from SQuAD's list of objects, or from the columns of lists that tables and TFDS have."""
    found = row.values.get("answers")
    try:
        if found is None or is_missing(found) or found == {}:
            return []
        if isinstance(found, dict):
            return [Answer(str(t), int(s)) for t, s in zip(found["text"], found["answer_start"], strict=True)]
        return [Answer(str(answer["text"]), int(answer["answer_start"])) for answer in found]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise unreadable(row.place, f"answers {found!r:.80} have no text and answer_start") from None


def _within(answer: Answer, context: str, row: Row) -> Answer:
    """The answer without the blanks around it; with them it would begin a token early.

    Raises ValueError if the context does not have the answer at its place.
    """
    text = answer.text.strip()
    num_blanks = len(answer.text) - len(answer.text.lstrip())
    start = answer.start + num_blanks
    if text and start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    place = context.find(text) - num_blanks if text in context and text else -1
    advice = f"it is at {place}: correct answer_start" if place >= 0 else "correct or delete it"
    raise ValueError(
        f"{row.place}: the answer {answer.text[:60]!r} is not at character {answer.start} of its "
        f"context; {advice}"
    )


def read_target(row: Row, config: DataConfig) -> Example:
    """A source with its target."""
    target = None if config.target_column is None else _text(row, config.target_column)
    return Example((_text(row, config.text_column),), target, row.values, row.place)


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if is_missing(value):
        raise ValueError(f"{row.place}: the text in {column!r} is empty; fill it, or delete the row")
    if not isinstance(value, str):
        raise ValueError(f"{row.place}: {column!r} holds {value!r:.60}, which is not text; give a string")
    check_unicode(value, row.place, column)
    return value

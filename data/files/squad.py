"""SQuAD's JSON (Rajpurkar et al. 2016, 2018): articles of paragraphs of questions, as rows."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from flaxmill.data.files.json_rows import JsonError, first_value, parse_file, read_json
from flaxmill.data.files.rows import Row


def read_questions(path: PurePath) -> Iterator[Row]:
    """Reads SQuAD's JSON, or objects with question, context and answers in an array or one per line."""
    first = first_value(path)
    is_row = isinstance(first, list) or (isinstance(first, dict) and "question" in first)
    return read_json(path) if is_row else read_squad(path)


def read_squad(path: PurePath) -> Iterator[Row]:
    """One row per question: id, title, question, context, answers (a list of {text, answer_start}), and
    is_impossible where the file says so. The file is parsed at once: it is one JSON value.

    Raises ValueError where it is not of that form.
    """
    try:
        content = parse_file(path)
    except JsonError as error:
        raise ValueError(f"{path} cannot be read as SQuAD's JSON ({error}); correct it") from None
    for a, article in enumerate(_get(content, "data", list, path, "the file")):
        where = f"data[{a}]"
        for p, paragraph in enumerate(_get(article, "paragraphs", list, path, where)):
            where = f"data[{a}].paragraphs[{p}]"
            context = _get(paragraph, "context", str, path, where)
            for q, question in enumerate(_get(paragraph, "qas", list, path, where)):
                where = f"data[{a}].paragraphs[{p}].qas[{q}]"
                values = {
                    "id": str(_get(question, "id", (str, int), path, where)),
                    "title": article.get("title", ""),
                    "question": _get(question, "question", str, path, where),
                    "context": context,
                    "answers": question.get("answers", []),
                }
                if "is_impossible" in question:
                    values["is_impossible"] = question["is_impossible"]
                yield Row(values, f"question {values['id']!r}", str(path))


def _get(value: Any, key: str, kind: type | tuple[type, ...], path: PurePath, where: str) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ValueError(
            f"{path} is not in SQuAD's format: {where} has no {key!r} of the right type; correct it, or give "
            "a .jsonl with question, context and answers"
        )
    return found

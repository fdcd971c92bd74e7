"""The messages of a row, checked: a list in the form of OpenAI or of ShareGPT, or Alpaca's columns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.data.files.rows import Row, check_unicode, is_missing
from flaxmill.data.messages import did_you_mean

Message = dict[str, Any]
"""`role`, `content`, and what else a chat template may read."""


class Rendered(NamedTuple):
    """A conversation as one text.

    targets: (start, end), in characters of the text, of what the assistant wrote, in order.
    """

    text: str
    targets: tuple[tuple[int, int], ...]


ROLES = ("system", "user", "assistant", "tool")
INSTRUCTION = "instruction"
COLUMNS = ("messages", "conversations", INSTRUCTION)
"""The columns that are tried in this order where data.text_column names none."""
BESIDE = {INSTRUCTION: ("input", "output", "system")}
"""Alpaca's other columns (Taori et al. 2023); `system`, which LLaMA-Factory adds, begins a conversation."""

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_FORMS = (("role", "content"), ("from", "value"))
# Unicode keeps these for a program's own use; chat_template.py marks places of a text with them.
_NO_CHARACTERS = re.compile("[\ufdd0-\ufdef]")
_EXAMPLE = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


def message_columns(config: DataConfig) -> tuple[str, ...]:
    """The columns that may hold the messages: data.text_column, or the usual ones where it is not set."""
    named = config.text_column
    return COLUMNS if named == DataConfig.text_column else (named,)


def read_messages(row: Row, columns: Sequence[str]) -> list[Message]:
    """The messages in the first of the columns that the row has.

    Raises ValueError, naming the place and what was expected, where they are not a conversation in which the
    assistant speaks.
    """
    column = next((name for name in columns if name in row.values), None)
    if column is None:
        raise _lacks_column(row, columns)
    value = row.values[column]
    is_instruction = column == INSTRUCTION and isinstance(value, str)
    messages = read_list(_read_instruction(row) if is_instruction else value, column, row.place)
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError(
            f"{row.place} has no message of the assistant, so that there is nothing to learn; add one, or "
            "delete the row"
        )
    return messages


def read_list(value: Any, column: str, place: str) -> list[Message]:
    """A column's list of messages. Raises ValueError, naming the place, for anything else."""
    value = _as_list(value)
    if not isinstance(value, list):
        raise ValueError(
            f"{place}: {column!r} holds {value!r:.60}, which is not a list of messages; give {_EXAMPLE}"
        )
    return [_read_message(item, f"message {number} of {place}") for number, item in enumerate(value, 1)]


def _read_instruction(row: Row) -> list[Message]:
    """Alpaca's columns as messages; the input follows the instruction on a line of its own, as in
    LLaMA-Factory. Raises ValueError where one is no text, or where there is no output."""
    texts = {name: row.values.get(name) for name in (INSTRUCTION, *BESIDE[INSTRUCTION])}
    texts = {name: "" if is_missing(text) else text for name, text in texts.items()}
    if bad := next((name for name, text in texts.items() if not isinstance(text, str)), None):
        raise ValueError(f"{row.place}: {bad!r} holds {texts[bad]!r:.60}, which is not a text; give a string")
    if not texts["output"]:
        raise ValueError(
            f"{row.place} has an instruction without an output, so that there is nothing to learn; add it, "
            "or delete the row"
        )
    asked = "\n".join(filter(None, (texts[INSTRUCTION], texts["input"])))
    turns = (("system", texts["system"]), ("user", asked), ("assistant", texts["output"]))
    return [{"role": role, "content": text} for role, text in turns if text]


def _as_list(value: Any) -> Any:
    """A list of messages where each key has a list of its own, as TFDS stores them."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, list) for v in value.values()):
        return value
    if len({len(items) for items in value.values()}) > 1:
        return value
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]


def check_spelling(messages: Sequence[Message], specials: Iterable[str], place: str) -> None:
    """Raises ValueError for a message that spells a special token, which would be read as that token."""
    for number, message in enumerate(messages, start=1):
        if spelled := next((token for token in specials if token in message["content"]), None):
            raise ValueError(
                f"message {number} of {place} spells the special token {spelled!r}; delete it, or have it "
                "read as that token with data.markup=True"
            )


def _lacks_column(row: Row, columns: Sequence[str]) -> ValueError:
    names = [str(name) for name in row.values]
    guess = did_you_mean(columns[0], names) or "name the column of the messages with --data.text-column"
    *firsts, last = map(repr, columns)
    wanted = f"{', '.join(firsts)} or {last}" if firsts else last
    return ValueError(f"{row.place} has no column {wanted}; it has {', '.join(names) or 'none'}; {guess}")


def _read_message(item: Any, place: str) -> Message:
    form = next((form for form in _FORMS if isinstance(item, Mapping) and form[0] in item), None)
    if form is None:
        raise ValueError(f"{place} is {item!r:.60}, which has no role; give {_EXAMPLE}")
    role_key, content_key = form
    # A table gives every message the keys of all, and null where it has none.
    others = {
        key: value for key, value in item.items() if key not in (*form, "tool_calls") and value is not None
    }
    if item.get("tool_calls"):
        raise ValueError(
            f"{place} has tool_calls, which are not read; write the calls into its {content_key}"
        )
    role = item[role_key]
    if isinstance(role, str):
        role = _SHAREGPT_ROLES.get(role, role)
    if role not in ROLES:
        known = (*ROLES, *_SHAREGPT_ROLES) if role_key == "from" else ROLES
        guess = did_you_mean(role, known) if isinstance(role, str) else ""
        raise ValueError(
            f"{place}: the role {role!r:.60} is unknown; {guess or 'use one of ' + ', '.join(known)}"
        )
    content = item.get(content_key)
    if not isinstance(content, str):
        raise ValueError(f"{place}: its {content_key} is {content!r:.60}, which is not a text; give a string")
    check_unicode(content, place, content_key)
    if found := _NO_CHARACTERS.search(content):
        raise ValueError(
            f"{place}: its {content_key} holds U+{ord(found[0]):04X}, which is no character; delete it"
        )
    return {"role": role, "content": content} | others

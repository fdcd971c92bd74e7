"""The rows of tables and datasets as documents: the text, or the token ids, in one column."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.messages import BESIDE, check_spelling, message_columns, read_messages
from flaxmill.data.conversations.rendering import Chat
from flaxmill.data.files.archives import format_suffix
from flaxmill.data.files.rows import Refuse, Row, check_unicode, is_missing, unknown_column
from flaxmill.data.files.tables import TABLES
from flaxmill.data.text.documents import Document, cut_row
from flaxmill.data.text.token_documents import Vocabulary, as_ids, check_takes_ids, row_of_ids


class RowReading(NamedTuple):
    """How rows become documents.

    vocabulary: loads what ids are checked against.
    takes_ids: rows of ids are not an error.
    chat: makes what renders conversations, where rows hold these instead of text.
    """

    config: DataConfig
    vocabulary: Callable[[], Vocabulary]
    takes_ids: bool
    chat: Callable[[], Chat] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that may hold a document; the first that there is does."""
        return (self.config.text_column,) if self.chat is None else message_columns(self.config)

    @property
    def beside(self) -> Mapping[str, Sequence[str]]:
        """The columns that belong to a document in one of these."""
        return {} if self.chat is None else BESIDE


def read_rows(rows: Iterator[Row], path: PurePath, reading: RowReading, refuse: Refuse) -> Iterator[Document]:
    """The documents of each row's text, ids or messages; rows without any are left out, and bad ones
    refused."""
    if reading.chat is not None:
        yield from read_conversations(rows, reading.config, reading.chat(), refuse)
        return
    config = reading.config
    for row in rows:
        try:
            value = _content(row, path, config.text_column)
        except ValueError as error:
            # A header holds for all rows, and what it lacks is no fault of one.
            if format_suffix(path) in (".csv", ".tsv"):
                raise
            refuse(error)
            continue
        if isinstance(value, np.ndarray):
            if len(value):
                check_takes_ids(config, row.place, reading.takes_ids)
                yield from row_of_ids(value, row.place, reading.vocabulary())
        else:
            yield from cut_row(value, config.documents, path, row.place, refuse)


def read_conversations(
    rows: Iterator[Row], config: DataConfig, chat: Chat, refuse: Refuse
) -> Iterator[Document]:
    """Each row's conversation as a document. Refuses a row without one, or with nothing to predict."""
    for row in rows:
        try:
            document = _conversation(row, config, chat)
        except ValueError as error:
            refuse(error)
        else:
            yield document


def _conversation(row: Row, config: DataConfig, chat: Chat) -> Document:
    messages = read_messages(row, message_columns(config))
    if not config.reads_markup_in_examples:
        check_spelling(messages, chat.specials, row.place)
    try:
        text, targets = chat.render(messages)
    except ValueError as error:
        raise ValueError(f"{row.place}: {error}; correct the messages, or delete the row") from None
    if not targets:
        raise ValueError(
            f"{row.place}: nothing that the assistant says is in the text that the chat template makes; "
            "correct the messages, or delete the row"
        )
    return Document(text, "lines", row.place, targets=targets)


def _content(row: Row, path: PurePath, column: str) -> str | np.ndarray:
    """The row's text or ids. Raises ValueError where it has no such column, or something else in it."""
    if column not in row.values:
        is_text = format_suffix(path) in TABLES and format_suffix(path) != ".parquet"
        fix = ", or give the file the suffix .txt to read it as it is" if is_text else ""
        raise unknown_column(column, [str(name) for name in row.values], row.place, fix)
    value: Any = row.values[column]
    if (ids := as_ids(value)) is not None:
        return ids
    if is_missing(value) or value == []:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{row.place}: {column!r} holds {value!r:.60}, which is not text; give a string")
    check_unicode(value, row.place, column)
    return value

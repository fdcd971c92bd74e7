"""The conversations inside the running Python, as a corpus of text with a held-out part."""

from collections.abc import Iterator
from typing import get_args

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.rendering import load_chat
from flaxmill.data.examples.embedded_rows import embedded_inventory, embedded_rows
from flaxmill.data.files.rows import raise_error
from flaxmill.data.files.sources import InputSource, InputSources
from flaxmill.data.text.documents import Document
from flaxmill.data.text.held_out import Split, SplitCorpus, Stream
from flaxmill.data.text.row_documents import read_conversations

_TASK = "conversations"
_NAME = f"data.embedded={_TASK}"
# Conversations have about so much of the text of the sources that they are about.
_SHARE = 10


def embedded_conversations(config: DataConfig) -> SplitCorpus:
    """Raises ValueError where data.embedded names something else, or this Python has no sources."""
    if config.embedded not in ("all", _TASK):
        raise ValueError(
            f"data.embedded={config.embedded} holds no conversations, which this objective learns from; use "
            f"{_TASK}, or give data.files"
        )
    inventory, num_bytes = embedded_inventory(_TASK)

    def read(split: Split) -> Iterator[Document]:
        rows = (row for its_split, row in embedded_rows(_TASK) if its_split == split)
        return read_conversations(rows, config, load_chat(config), raise_error)

    def stream() -> Iterator[tuple[Split, Document]]:
        return ((split, document) for split in get_args(Split) for document in read(split))

    def streams() -> tuple[Stream, ...]:
        return tuple(Stream(split, _one_source(lambda split=split: read(split))) for split in get_args(Split))

    return SplitCorpus(_NAME, {"files": inventory}, num_bytes // _SHARE, stream, streams=streams)


def _one_source(read) -> InputSources:
    return InputSources(_NAME, (InputSource(_NAME, [], 0, _NAME, read),))

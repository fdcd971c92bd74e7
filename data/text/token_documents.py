"""Documents that were tokenized before: ids from files and rows, checked against the tokenizer."""

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.files.token_files import read_blocks, read_documents
from flaxmill.data.text.documents import Document
from flaxmill.data.tokenization import Tokenizer

# A longer run of ids is cut, as long texts are, to keep memory flat and the held-out draw fair.
MAX_DOCUMENT_TOKENS = 32 * 1024


class Vocabulary(NamedTuple):
    """What ids are checked against and cut at.

    end_id: the token that ends a document; None: the tokenizer has none.
    """

    tokenizer: str
    size: int
    end_id: int | None


def check_takes_ids(config: DataConfig, place: str, takes_ids: bool) -> None:
    """Raises ValueError where rows cannot be made of ids, or nothing says what the ids stand for."""
    if not takes_ids:
        raise ValueError(
            f"{place} holds token ids, and sentence pairs, rows of whole sentences and tokenizers are made "
            "of text; give text"
        )
    if config.tokenizer in TRAINED:
        raise ValueError(
            f"{place} holds token ids, and data.tokenizer={config.tokenizer} is made here; give the path of "
            "the tokenizer that the ids are from"
        )


def load_vocabulary(config: DataConfig) -> Vocabulary:
    """The vocabulary of the config's tokenizer, which is loaded. Raises ValueError if it cannot be read."""
    tokenizer = Tokenizer.load(config.tokenizer, by_spelling=config.framing == "spelled")
    end_id = tokenizer.closing_id if tokenizer.end_id is None else tokenizer.end_id
    return Vocabulary(config.tokenizer, tokenizer.vocab_size, end_id)


def read_token_file(path: PurePath, raw_dtype: str, vocabulary: Vocabulary) -> Iterator[Document]:
    """The documents of a file without an index: each ends with the end token, which it keeps."""
    start = 0
    for ids in cut_at_ends(read_blocks(path, raw_dtype), vocabulary.end_id):
        if len(ids) > 1 or ids[0] != vocabulary.end_id:  # an end token alone is an empty document
            yield _document(ids, f"the document at token {start + 1:,} of {path}", vocabulary)
        start += len(ids)


def read_indexed_file(path: PurePath, index: PurePath, vocabulary: Vocabulary) -> Iterator[Document]:
    """The documents of Megatron's pair of files, as its index has them."""
    for number, ids in read_documents(path, index):
        yield from row_of_ids(ids, f"document {number:,} of {path}", vocabulary)


def row_of_ids(ids: np.ndarray, place: str, vocabulary: Vocabulary) -> Iterator[Document]:
    """The documents of one row of ids: one, unless it is very long."""
    for start in range(0, len(ids), MAX_DOCUMENT_TOKENS):
        yield _document(ids[start : start + MAX_DOCUMENT_TOKENS], place, vocabulary)


def as_ids(value: Any) -> np.ndarray | None:
    """The value of a row as ids; None if it is anything but a list of integers."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, list) or not value or any(type(item) is not int for item in value):
        return None
    try:
        return np.array(value, np.int64)
    except OverflowError:
        return None


def cut_at_ends(blocks: Iterable[np.ndarray], end_id: int | None) -> Iterator[np.ndarray]:
    """Documents up to and with their end token; one without an end is cut at MAX_DOCUMENT_TOKENS."""
    held = np.zeros(0, np.int64)
    for block in blocks:
        tokens = np.concatenate([held, block]) if len(held) else block
        ends = [] if end_id is None else (np.flatnonzero(tokens == end_id) + 1).tolist()
        start = 0
        for end in ends:
            yield from _bounded(tokens[start:end])
            start = end
        whole = start + (len(tokens) - start) // MAX_DOCUMENT_TOKENS * MAX_DOCUMENT_TOKENS
        yield from _bounded(tokens[start:whole])
        held = tokens[whole:]
    yield from _bounded(held)


def _bounded(ids: np.ndarray) -> Iterator[np.ndarray]:
    return (ids[start : start + MAX_DOCUMENT_TOKENS] for start in range(0, len(ids), MAX_DOCUMENT_TOKENS))


def _document(ids: np.ndarray, place: str, vocabulary: Vocabulary) -> Document:
    is_known = (ids >= 0) & (ids < vocabulary.size)
    if not is_known.all():
        raise ValueError(
            f"{place} has the id {int(ids[~is_known][0])}, and data.tokenizer={vocabulary.tokenizer} has "
            f"{vocabulary.size:,}; name the tokenizer that the ids are from, or, for a .bin, another "
            "data.token_dtype"
        )
    return Document("", "lines", place, ids.astype(np.int32))

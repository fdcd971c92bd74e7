"""Turns the documents of a part into tokens: what a worker does most of its time."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig, Layout
from flaxmill.data.conversations.encoding import encode_conversations, turn_lengths
from flaxmill.data.conversations.messages import Rendered
from flaxmill.data.duplicates.judging import looks_for_near
from flaxmill.data.duplicates.signatures import sign
from flaxmill.data.examples.framing import document_frame, without_frame
from flaxmill.data.preparation.parts import (
    Part,
    cut_into_runs,
    digest_documents,
    holds,
    save_part,
    signatures_of,
)
from flaxmill.data.text.documents import Document
from flaxmill.data.text.sentences import cut_at_sentences, split_sentences
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts
from flaxmill.data.tokenizer.word_memory import WordMemory
from flaxmill.data.vocabulary.unknown import first_unknown
from flaxmill.data.whole_files import write_whole

# Enough documents to keep every core of the tokenizer busy, little enough text to be forgotten at once.
_CHUNK_CHARACTERS = 500_000
# So many pieces that a tokenizer does not know are kept of each part, to be shown.
_MOST_PIECES = 16


class Encoded(NamedTuple):
    """A document's tokens with the special tokens around them, the lengths of its sentences, or of the turns
    of a conversation, where rows need them, and its text's bytes."""

    tokens: np.ndarray
    sentences: list[int]
    num_bytes: int


class _Reading(NamedTuple):
    """What turns the texts of a part into tokens; `encode` gives the ids of a batch of texts."""

    tokenizer: Tokenizer
    config: DataConfig
    encode: Callable[[Sequence[str]], list[np.ndarray]]


class PartTask(NamedTuple):
    """A part to be encoded, and the file that it goes to."""

    path: Path
    documents: list[Document]


def make_part_encoder(config: DataConfig, layout: Layout, tokenizer_file: Path) -> Callable[[PartTask], None]:
    """What encodes parts into their files, unless these are there and whole.

    It raises ValueError for a text that the tokenizer fails at, OSError where a file cannot be written.
    """
    tokenizer = Tokenizer.load(tokenizer_file, is_trusted=True)
    encode = _ENCODERS[config.packing if layout == "packed" else layout]
    memory = WordMemory(tokenizer.reader(config.reads_markup_in_text))
    reading = _Reading(tokenizer, config, memory.encode)
    signs = looks_for_near(config.duplicates)

    def run(task: PartTask) -> None:
        if signs and not signatures_of(task.path).is_file():
            signatures = sign(_texts(task.documents, tokenizer))
            write_whole(signatures_of(task.path), lambda partial: np.save(partial, signatures))
        if not holds(task.path, task.documents):
            encoded = [
                item
                for chunk in cut_into_runs(task.documents, _CHUNK_CHARACTERS)
                for item in encode(chunk, reading)
            ]
            save_part(task.path, _collect(task.documents, encoded, tokenizer))

    return run


def _texts(documents: Sequence[Document], tokenizer: Tokenizer) -> list[str]:
    decoded = iter(_decode([document.ids for document in documents if document.ids is not None], tokenizer))
    return [document.text if document.ids is None else next(decoded) for document in documents]


def _encode_whole(documents: list[Document], reading: _Reading) -> Iterator[Encoded]:
    """Frames each document, see `document_frame`."""
    frame = document_frame(reading.tokenizer, reading.config.framing)
    before, after = (np.array(ids, np.int32) for ids in frame)
    unread = [document for document in documents if document.ids is None]
    texts = [document.text for document in unread]
    encoded = iter(encode_texts(reading.encode, texts, lambda number: unread[number].place))
    known = [document.ids for document in documents if document.ids is not None]
    decoded = iter(_decode(known, reading.tokenizer))
    for document in documents:
        if document.ids is None:
            text, ids = document.text, next(encoded)
        else:
            text, ids = next(decoded), without_frame(document.ids, frame)
        tokens = np.concatenate([before, np.asarray(ids, np.int32), after]) if len(ids) else _EMPTY
        yield Encoded(tokens, [], _count_bytes(text))


def _encode_sentences(documents: list[Document], reading: _Reading) -> Iterator[Encoded]:
    """Frames each document, and keeps its sentences apart; together they are its text."""
    frame = document_frame(reading.tokenizer, reading.config.framing)
    before, after = (np.array(ids, np.int32) for ids in frame)
    language, keeps_blank = reading.config.sentences, _keeps_blank(reading.tokenizer)
    texts = [cut_at_sentences(document, language, keeps_blank=keeps_blank) for document in documents]
    for document, sentences in zip(documents, _encode_parts(documents, texts, reading), strict=True):
        if sentences:
            sentences[0] = np.concatenate([before, sentences[0]])
            sentences[-1] = np.concatenate([sentences[-1], after])
        yield _join_sentences(sentences, document)


def _encode_pair_sentences(documents: list[Document], reading: _Reading) -> Iterator[Encoded]:
    """The sentences of each document, without special tokens and without the blanks between them."""
    texts = [split_sentences(document, reading.config.sentences) for document in documents]
    for document, sentences in zip(documents, _encode_parts(documents, texts, reading), strict=True):
        yield _join_sentences(sentences, document)


def _encode_conversations(documents: list[Document], reading: _Reading) -> Iterator[Encoded]:
    """Conversations as their template writes them, with nothing around them."""
    rendered = [Rendered(document.text, document.targets or ()) for document in documents]
    encode = functools.partial(encode_conversations, tokenizer=reading.tokenizer)
    encoded = encode_texts(encode, rendered, lambda number: documents[number].place)
    for document, (tokens, is_target) in zip(documents, encoded, strict=True):
        yield Encoded(tokens, turn_lengths(is_target), _count_bytes(document.text))


_ENCODERS: dict[str, Callable[[list[Document], _Reading], Iterator[Encoded]]] = {
    "pairs": _encode_pair_sentences,
    "conversations": _encode_conversations,
    "concatenate": _encode_whole,
    "best_fit": _encode_whole,
    "first_fit": _encode_whole,
    "full_sentences": _encode_sentences,
}
_EMPTY = np.zeros(0, np.int32)


def _encode_parts(
    documents: list[Document], texts: list[list[str]], reading: _Reading
) -> Iterator[list[np.ndarray]]:
    """The ids of each document's sentences, without those that give none."""
    places = [document.place for document, pieces in zip(documents, texts, strict=True) for _ in pieces]
    flat = [text for pieces in texts for text in pieces]
    ids = iter(encode_texts(reading.encode, flat, places.__getitem__))
    for pieces in texts:
        yield [sentence for sentence in (next(ids) for _ in pieces) if len(sentence)]


def _join_sentences(sentences: list[np.ndarray], document: Document) -> Encoded:
    tokens = np.concatenate([_EMPTY, *sentences])
    return Encoded(tokens, [len(ids) for ids in sentences], _count_bytes(document.text))


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _collect(documents: list[Document], encoded: list[Encoded], tokenizer: Tokenizer) -> Part:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    tokens = np.concatenate([_EMPTY, *(item.tokens for item in encoded)])
    lengths = np.array([len(item.tokens) for item in encoded], np.int32)
    num_unknown = _count_unknown(tokens, lengths, tokenizer.unknown_id)
    unknown = np.flatnonzero(num_unknown)[:_MOST_PIECES]
    pieces = [first_unknown(tokenizer, documents[number].text) for number in unknown]
    return Part(
        tokens=tokens.astype(dtype),
        lengths=lengths,
        sentences=np.array([length for item in encoded for length in item.sentences], np.int32),
        num_sentences=np.array([len(item.sentences) for item in encoded], np.int32),
        digests=digest_documents(documents),
        num_bytes=np.array([item.num_bytes for item in encoded], np.int64),
        num_unknown=num_unknown,
        unknown_documents=unknown,
        unknown_pieces=np.array(pieces, np.str_),
    )


def _count_unknown(tokens: np.ndarray, lengths: np.ndarray, unknown_id: int | None) -> np.ndarray:
    if unknown_id is None:
        return np.zeros(len(lengths), np.int32)
    before = np.concatenate([[0], np.cumsum(tokens == unknown_id)])
    ends = np.cumsum(lengths)
    return (before[ends] - before[ends - lengths]).astype(np.int32)


def _keeps_blank(tokenizer: Tokenizer) -> bool:
    """Whether a sentence of its own needs the blank before it to become the tokens that it is in a text; most
    tokenizers of SentencePiece put one before every text."""
    alone = tokenizer.encode("a.") + tokenizer.encode(" a")
    return alone == tokenizer.encode("a. a")


def _decode(documents: list[np.ndarray], tokenizer: Tokenizer) -> list[str]:
    """The texts of documents of ids, decoded on all cores: their bytes are what a loss per byte counts."""
    return tokenizer.inner.decode_batch([ids.tolist() for ids in documents], skip_special_tokens=True)

"""Parts: the documents that one worker encodes at once, and the file that holds what it made of them."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmill.data.preparation.work_directory import UnfinishedError
from flaxmill.data.text.documents import Document
from flaxmill.data.whole_files import write_whole

# n documents of a part, N tokens in all.

DIGEST_BYTES = 16
# Some seconds of work: little is lost when a worker is killed, and little waits for the last one.
PART_CHARACTERS = 16_000_000


class Part(NamedTuple):
    """What is known of the documents of a part.

    tokens: [N], one document after another, each with the special tokens around it.
    lengths: int32 [n], the tokens of each document; 0: its text gives none, and it is no document.
    sentences: int32, the lengths of all sentences, where rows need them, or of the turns of conversations;
      else empty.
    num_sentences: int32 [n].
    digests: uint8 [n,16], equal for equal documents.
    num_bytes: int64 [n], the bytes of each text.
    num_unknown: int32 [n], the tokens of each document that stand for what the tokenizer does not know.
    unknown_documents: int64, the first documents with such tokens; unknown_pieces: the pieces of their text.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    sentences: np.ndarray
    num_sentences: np.ndarray
    digests: np.ndarray
    num_bytes: np.ndarray
    num_unknown: np.ndarray
    unknown_documents: np.ndarray
    unknown_pieces: np.ndarray


def cut_into_parts(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Runs of documents of about PART_CHARACTERS."""
    return cut_into_runs(documents, PART_CHARACTERS)


def cut_into_runs(documents: Iterable[Document], num_characters: int) -> Iterator[list[Document]]:
    """Runs of neighbouring documents of about so many characters."""
    run, size = [], 0
    for document in documents:
        run.append(document)
        size += size_of(document)
        if size >= num_characters:
            yield run
            run, size = [], 0
    if run:
        yield run


def size_of(document: Document) -> int:
    """The characters of a text, or the bytes of its ids."""
    return len(document.text) if document.ids is None else document.ids.nbytes


def digest_documents(documents: Sequence[Document]) -> np.ndarray:
    """uint8 [n,16]: digests of what the documents say, wherever they are."""
    return np.frombuffer(b"".join(map(_digest, documents)), np.uint8).reshape(-1, DIGEST_BYTES)


def _digest(document: Document) -> bytes:
    if document.targets is not None:
        kind, data = f"conversation {document.targets}", document.text.encode()
    elif document.ids is None:
        kind, data = document.sentences, document.text.encode()
    else:
        kind, data = "ids", document.ids.astype("<i4").tobytes()
    return hashlib.blake2b(f"{kind}\n".encode() + data, digest_size=DIGEST_BYTES).digest()


def save_part(path: Path, part: Part) -> None:
    """Writes a part, which appears whole or not at all."""
    write_whole(path, lambda partial: np.savez(partial, **part._asdict()))


def signatures_of(path: Path) -> Path:
    """The file of a part's signatures, uint32 [n,128], which is there if near duplicates are looked for."""
    return path.with_suffix(".signatures.npy")


def load_signatures(path: Path) -> np.ndarray:
    """A part's signatures, left on disk. Raises UnfinishedError where the file is not what was written."""
    try:
        return np.load(signatures_of(path), mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise _damaged(signatures_of(path), error) from None


def load_part(path: Path, *fields: str) -> Part:
    """The named fields of a part, or all. Raises UnfinishedError where the file is not what was written."""
    wanted = fields or Part._fields
    empty = np.zeros(0, np.int32)
    try:
        with np.load(path) as arrays:  # a zip archive, whose checksums are compared
            return Part(**{name: arrays[name] if name in wanted else empty for name in Part._fields})
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UnfinishedError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UnfinishedError(
        f"{path} is damaged ({reason}); delete {path.parents[2]}, and the same command begins again"
    )


def holds(path: Path, documents: Sequence[Document]) -> bool:
    """Whether the file is a whole part made of these documents."""
    try:
        return np.array_equal(load_part(path).digests, digest_documents(documents))
    except OSError:
        return False

"""What data.files names as a stream of documents: text, tables, datasets, token ids, the embedded corpus."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, get_args

from flaxmill.data.config import DataConfig, EmbeddedText
from flaxmill.data.conversations.rendering import load_chat
from flaxmill.data.files.archives import EXPANSION, format_suffix, is_archive, refuse_binary
from flaxmill.data.files.bad_rows import SkippedRows, read_good
from flaxmill.data.files.directories import choose_known, find_in_directory
from flaxmill.data.files.own_rows import find_own, read_own
from flaxmill.data.files.remote_paths import RemoteFile, find_remote, is_remote
from flaxmill.data.files.rows import Refuse
from flaxmill.data.files.saved_datasets import find_saved, saved_files
from flaxmill.data.files.sources import (
    InputSource,
    InputSources,
    Log,
    find_files,
    make_file_source,
    make_remote_source,
    read_once,
)
from flaxmill.data.files.specs import EMBEDDED, OWN
from flaxmill.data.files.tables import find_reader
from flaxmill.data.files.tfds_rows import PREFIX, open_tfds, read_tfds
from flaxmill.data.files.token_files import TOKEN_SUFFIXES, data_file, find_index
from flaxmill.data.messages import did_you_mean
from flaxmill.data.text.documents import Document, read_text
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text.row_documents import RowReading, read_rows
from flaxmill.data.text.token_documents import (
    check_takes_ids,
    load_vocabulary,
    read_indexed_file,
    read_token_file,
)

# Binary files that are read beside text.
_ACCEPTED = (*TOKEN_SUFFIXES, ".arrow")
# Tables whose columns can hold lists.
_NESTED = (".jsonl", ".json", ".parquet", ".arrow")


class _Reading(NamedTuple):
    """How the sources of a field are read."""

    rows: RowReading
    field: str
    log: Log
    is_training: bool
    skipped: SkippedRows | None

    @property
    def config(self) -> DataConfig:
        return self.rows.config


def text_sources(
    config: DataConfig,
    specs: Sequence[str],
    field: str,
    log: Log,
    *,
    is_training: bool = True,
    takes_ids: bool = True,
    are_conversations: bool = False,
) -> InputSources:
    """What the specs name, as documents: docs/data.md lists the kinds of specs.

    Args:
      field: the name of the specs' field, for errors: "data.files".
      is_training: a dataset's split is `train` where the spec names none; else `validation` or `test`.
      takes_ids: rows can be made of documents that were tokenized before.
      are_conversations: rows hold conversations, which become text by the tokenizer's chat template.

    Raises ValueError, naming the field, where a spec names nothing, or something without text.
    """
    vocabulary = functools.cache(lambda: load_vocabulary(config))
    chat = functools.cache(lambda: load_chat(config)) if are_conversations else None
    rows = RowReading(config, vocabulary, takes_ids and not are_conversations, chat)
    skipped = SkippedRows() if config.bad_rows == "skip" else None
    reading = _Reading(rows, field, log, is_training, skipped)
    sources = (source for spec in specs for source in _find(spec, reading))
    return read_once(f"{field}={', '.join(specs)}", sources, log)._replace(skipped=skipped)


def _find(spec: str, reading: _Reading) -> Iterator[InputSource]:
    """The sources that one spec names."""
    field = reading.field
    if spec.startswith(EMBEDDED):
        if reading.rows.chat is not None:
            raise _no_conversations(f"{field}={spec}")
        yield from embedded_corpus(_embedded_part(spec, field)).sources
    elif spec.startswith(PREFIX):
        yield _tfds_source(spec, reading)
    elif spec.startswith(OWN):
        yield _own_source(spec, reading)
    elif is_remote(spec):
        yield from (_remote_source(file, reading) for file in _remote_files(spec, reading))
    elif saved := find_saved(spec):
        for path in saved_files(*saved, field, reading.is_training):
            yield _file_source(path, reading)
    elif Path(spec).is_dir():
        for path in find_in_directory(Path(spec).absolute(), field, reading.log):
            yield _file_source(path, reading)
    else:
        for path in dict.fromkeys(data_file(path) for path in find_files([spec], field, _ACCEPTED)):
            yield _file_source(path, reading)


def _embedded_part(spec: str, field: str) -> EmbeddedText:
    part, parts = spec.removeprefix(EMBEDDED), get_args(EmbeddedText)
    if part not in parts:
        raise ValueError(
            f"{field}={spec} names no part of the embedded corpus, which has {', '.join(parts)}; "
            f"{did_you_mean(part, parts) or 'name one of these'}"
        )
    return part  # type: ignore[return-value]  # it is one of them


def _tfds_source(spec: str, reading: _Reading) -> InputSource:
    split = open_tfds(spec, reading.is_training)

    def read(refuse: Refuse) -> Iterator[Document]:
        return read_rows(read_tfds(split, refuse), PurePath(split.name), reading.rows, refuse)

    inventory = [*split.inventory, split.prepared_at, reading.rows.columns[0]]
    return InputSource(split.name, [inventory], split.num_bytes, split.name, _good(split.name, read, reading))


def _own_source(spec: str, reading: _Reading) -> InputSource:
    own, column = find_own(spec, reading.field), reading.rows.columns[0]

    def read(refuse: Refuse) -> Iterator[Document]:
        return read_rows(read_own(own, column), PurePath(spec), reading.rows, refuse)

    inventory = [spec, own.version, column]
    return InputSource(spec, [inventory], own.num_bytes, spec, _good(spec, read, reading))


def _remote_files(spec: str, reading: _Reading) -> list[RemoteFile]:
    files = find_remote(spec, reading.field)
    if not files:
        raise ValueError(
            f"{reading.field}={spec!r} names no file; give the URL of a file, a folder or a glob"
        )
    if len(files) == 1 or any(mark in spec for mark in "*?["):
        for file in files:
            refuse_binary(file.path, reading.field, _ACCEPTED)
        indexes = {file.path for file in files if file.path.suffix.lower() == ".idx"}
        return [file for file in files if file.path not in indexes]
    known = choose_known([file.path for file in files], spec, reading.field, reading.log)
    return [file for file in files if file.path in set(known)]


def _remote_source(file: RemoteFile, reading: _Reading) -> InputSource:
    read, read_as = _reader(file.path, reading)
    expansion = _expansion(file.path)
    return make_remote_source(
        file, _good(str(file.path), read, reading), read_as=read_as, expansion=expansion
    )


def _file_source(path: Path, reading: _Reading) -> InputSource:
    read, read_as = _reader(path, reading)
    read_all = _good(str(path), read, reading)
    return make_file_source(path, reading.field, read_all, read_as=read_as, expansion=_expansion(path))


def _good(
    name: str, read: Callable[[Refuse], Iterator[Document]], reading: _Reading
) -> Callable[[], Iterator[Document]]:
    return functools.partial(read_good, name, read, reading.skipped)


def _expansion(path: PurePath) -> int:
    return EXPANSION if is_archive(path) or format_suffix(path) in (".parquet", ".arrow") else 1


def _reader(
    path: PurePath, reading: _Reading
) -> tuple[Callable[[Refuse], Iterator[Document]], tuple[Any, ...]]:
    """What reads a file, and the settings that decide how it does and that no dataset stores otherwise."""
    config, columns = reading.config, reading.rows.columns
    if reading.rows.chat is not None and format_suffix(path) not in _NESTED:
        raise _no_conversations(f"{reading.field}={str(path)!r}")
    if path.suffix.lower() in TOKEN_SUFFIXES:
        return _token_reader(path, reading)
    if find_reader(path, config.quotes, columns=columns) is None:
        return functools.partial(read_text, path, config.documents), ()

    def read(refuse: Refuse) -> Iterator[Document]:
        reader = find_reader(path, config.quotes, refuse, columns, reading.rows.beside)
        assert reader is not None
        return read_rows(reader(path), path, reading.rows, refuse)

    return read, (columns[0], config.quotes)


def _no_conversations(name: str) -> ValueError:
    return ValueError(
        f"{name} holds no lists of messages, which conversations are read from; name {', '.join(_NESTED)} "
        "files, a saved dataset or a tfds: one"
    )


def _token_reader(
    path: PurePath, reading: _Reading
) -> tuple[Callable[[Refuse], Iterator[Document]], tuple[Any, ...]]:
    check_takes_ids(reading.config, str(path), reading.rows.takes_ids)
    index = find_index(path) if path.suffix.lower() == ".bin" else None
    raw_dtype = reading.config.token_dtype

    def read(refuse: Refuse) -> Iterator[Document]:
        vocabulary = reading.rows.vocabulary()
        if index is not None:
            return read_indexed_file(path, index, vocabulary)
        return read_token_file(path, raw_dtype, vocabulary)

    return read, ("ids", raw_dtype if index is None else "indexed")

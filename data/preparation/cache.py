"""Finds a config's dataset in the cache, or makes it so that only a whole one is ever seen."""

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flaxmill.data.config import TRAINED, DataConfig, Layout
from flaxmill.data.examples.answer_rows import check_stride
from flaxmill.data.examples.corpus import ExampleCorpus, as_documents, find_labels, split_examples
from flaxmill.data.examples.target_rows import check_prompt_room
from flaxmill.data.objectives import added_tokens, data_of, find_function, has_labels, layout_of
from flaxmill.data.preparation.cache_places import (
    Places,
    find_places,
    reads_as_before,
    stored_framing,
    stored_settings,
)
from flaxmill.data.preparation.example_building import build_examples
from flaxmill.data.preparation.text_building import build_dataset
from flaxmill.data.prepared.dataset import Dataset, open_dataset
from flaxmill.data.prepared.manifest import MANIFEST, DamagedDatasetError
from flaxmill.data.special_tokens import check_trained_specials, require_special_tokens
from flaxmill.data.text.held_out import SplitCorpus, split_corpus
from flaxmill.data.vocabulary.training import check_vocab_size, load_tokenizer, make_tokenizer
from flaxmill.data.vocabulary.unknown import look_ahead

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)

Log = Callable[[str], None]


def prepare(
    config: DataConfig, objective: str, *, cache: Path, log: Log = print, has_encoder: bool = False
) -> Dataset:
    """The dataset of a config and objective, from `cache` if it is there.

    A warm start reads no text: the key is made of the settings and of the files' paths, sizes and times.

    Args:
      has_encoder: the model is an encoder-decoder, which reads a seq2seq source apart from its target.

    Raises ValueError for text, examples, tokenizers, objectives and cache directories that cannot be used.
    """
    layout = layout_of(objective, has_encoder)
    check_vocab_size(config)
    check_trained_specials(config, objective)
    _check_lengths(config, layout)
    _check_bad_rows(config, objective)
    data = data_of(objective)
    if data.examples is None:
        corpus = split_corpus(
            config, log, takes_ids=layout == "packed" and config.packing != "full_sentences"
        )
    else:
        corpus = split_examples(config, objective, log)
    settings = stored_settings(config, layout)
    if data.settings is not None:
        settings |= find_function(data.settings)(config)
    added = added_tokens(objective, config)
    if added and config.tokenizer in TRAINED:
        settings["added_tokens"] = list(added)
    labels = config.labels if has_labels(config, objective) else ()
    places = find_places(Path(cache) / "data", config, settings, corpus.inventory, labels)
    final = places.own
    dataset = _open_whole(final, log) or _open_alike(places, config, log)
    if dataset is None:
        with locked(final, log):
            dataset = _open_whole(final, log) or _make(final, config, objective, settings, corpus, log)
    require_special_tokens(dataset.tokenizer, objective, config)
    return dataset


def _check_bad_rows(config: DataConfig, objective: str) -> None:
    if config.bad_rows == "skip" and data_of(objective).examples is not None:
        raise ValueError(
            f"data.bad_rows=skip skips rows of text, and objective={objective} reads labelled examples; "
            "correct their bad rows, or delete them"
        )


def _check_lengths(config: DataConfig, layout: Layout) -> None:
    """Raises, before anything is read, what the rows' encoders would raise once they have a tokenizer."""
    if layout == "answers":
        check_stride(config)
    elif layout == "prompts":
        check_prompt_room(config)


def _open_alike(places: Places, config: DataConfig, log: Log) -> Dataset | None:
    """A dataset that was made under another name but holds the same rows."""
    if places.unnamed and (dataset := _open_whole(places.unnamed, log)) and dataset.labels == config.labels:
        return dataset
    if places.former and (dataset := _open_whole(places.former, log)):
        return dataset if reads_as_before(dataset, config, load_tokenizer(config, log)) else None
    return None


def _open_whole(final: Path, log: Log) -> Dataset | None:
    if not (final / MANIFEST).is_file():
        return None
    try:
        return open_dataset(final)
    except DamagedDatasetError as error:
        log(f"{error}: doing so now")
        return None


@contextlib.contextmanager
def _cache_errors(directory: Path) -> Iterator[None]:
    """Names the cache in errors of the system: only the cache is written while data are prepared, and a file
    that cannot be read is named by its reader.

    Raises ValueError where we may not write the directory, OSError where something happened to it.
    """
    try:
        yield
    except OSError as error:
        what = f"cache directory {str(directory)!r} cannot be written ({error.strerror or error})"
        if error.errno in _NOT_OURS:
            raise ValueError(f"{what}; set FLAXMILL_CACHE to one that can") from None
        if error.errno in _FULL:
            raise OSError(f"{what}; make room there, or set FLAXMILL_CACHE to a place with more") from None
        raise OSError(f"{what}; make sure that it stays, or set FLAXMILL_CACHE to another place") from None


@contextlib.contextmanager
def locked(final: Path, log: Log) -> Iterator[None]:
    """Lets one process make a dataset while others wait; the system unlocks it for a killed process."""
    with _cache_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        # Opened for reading too: opening a pipe only for writing waits for its reader.
        lock = os.open(final.parent / f".{final.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Without locks in the file system only waiting is lost: names are unique and publishing is atomic.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process that prepares {final}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in final.parent.glob(f".{final.name}.*.partial"):
                _remove(leftover)
        yield
    finally:
        os.close(lock)


def _make(
    final: Path,
    config: DataConfig,
    objective: str,
    settings: dict[str, Any],
    corpus: SplitCorpus | ExampleCorpus,
    log: Log,
) -> Dataset:
    started = time.monotonic()
    partial = final.parent / f".{final.name}.{uuid.uuid4().hex}.partial"
    try:
        with _cache_errors(final.parent):
            partial.mkdir()
            _build(partial, final, config, objective, settings, corpus, log)
            _publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    dataset = open_dataset(final)
    train, valid = dataset.statistics["train"], dataset.statistics["valid"]
    log(
        f"prepared {train['num_tokens']:,} training and {valid['num_tokens']:,} held-out tokens "
        f"in {time.monotonic() - started:.1f} s"
    )
    return dataset


def _build(
    partial: Path,
    final: Path,
    config: DataConfig,
    objective: str,
    settings: dict[str, Any],
    corpus: SplitCorpus | ExampleCorpus,
    log: Log,
) -> None:
    is_task = isinstance(corpus, ExampleCorpus)
    # All this comes before the tokenizer: a bad row is found in a moment, a vocabulary takes minutes.
    corpus.check()
    labels = find_labels(config, objective, corpus) if is_task else ()
    if is_task and config.tokenizer in TRAINED and config.tokenizer != "bytes":
        for _ in corpus.examples():
            pass
    texts = as_documents(corpus, objective) if is_task else corpus
    tokenizer = make_tokenizer(config, texts, log, settings.get("added_tokens", ()))
    require_special_tokens(tokenizer, objective, config)
    settings = settings | stored_framing(config, tokenizer, settings["layout"])
    look_ahead(texts.documents(), tokenizer, corpus.name, log)
    log(f"preparing {corpus.name} in {final}")
    arguments: dict[str, Any] = dict(config=config, settings=settings, tokenizer=tokenizer, log=log)
    if is_task:
        build_examples(partial, corpus=corpus, labels=labels, **arguments)
    else:
        build_dataset(partial, corpus=corpus, layout=settings["layout"], **arguments)


def _publish(partial: Path, final: Path) -> None:
    """Moves a whole dataset to its name; a whole one already there is kept, a damaged one is removed."""
    try:
        os.replace(partial, final)
    except OSError:
        with contextlib.suppress(ValueError):
            open_dataset(final)
            return
        damaged = partial.with_name(f"{partial.name}.damaged.partial")
        os.replace(final, damaged)
        os.replace(partial, final)
        _remove(damaged)


def _remove(path: Path) -> None:
    """Delete a directory, or whatever else has its name: at a pipe, `rmtree` waits for ever."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()

"""Finds a config's dataset in the cache, or makes it so that only a whole one is ever seen."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flaxmill.data.answer_rows import check_stride
from flaxmill.data.building import build_dataset
from flaxmill.data.config import TASK_OBJECTIVES, DataConfig, has_labels
from flaxmill.data.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedDatasetError,
    Dataset,
    Layout,
    layout_of,
    open_dataset,
)
from flaxmill.data.example_building import build_examples
from flaxmill.data.example_corpus import ExampleCorpus, as_documents, find_labels, split_examples
from flaxmill.data.held_out import SplitCorpus, split_corpus
from flaxmill.data.special_tokens import check_trained_specials, require_special_tokens
from flaxmill.data.target_rows import check_prompt_room
from flaxmill.data.tokenization import TRAINED, check_vocab_size, make_tokenizer

# The fields that change the rows of labelled examples, beside those of every layout.
_EXAMPLE_SETTINGS: dict[Layout, tuple[str, ...]] = {
    "labelled": ("text_column", "pair_column", "label_column", "label_type", "separator"),
    "tagged": ("text_column", "label_column"),
    "answers": ("stride",),
    "sources": ("text_column", "target_column", "target_length"),
    "prompts": ("text_column", "target_column", "target_length", "separator"),
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)

Log = Callable[[str], None]


def prepare(
    config: DataConfig, objective: str, *, cache: Path, log: Log = print, has_encoder: bool = False
) -> Dataset:
    """The dataset of a config and objective, from `cache` if it stands there.

    A warm start reads no text: the key is made of the settings and of the files' paths, sizes and times.

    Args:
      has_encoder: the model is an encoder-decoder, which reads a seq2seq source apart from its target.

    Raises ValueError for text, examples, tokenizers, objectives and cache directories that cannot be used.
    """
    layout = layout_of(objective, has_encoder)
    check_vocab_size(config)
    check_trained_specials(config, objective)
    _check_lengths(config, layout)
    is_task = objective in TASK_OBJECTIVES
    corpus = split_examples(config, objective, log) if is_task else split_corpus(config, log)
    settings = stored_settings(config, layout)
    final, *others = _places(Path(cache) / "data", config, objective, settings, corpus)
    dataset = _open_whole(final, log) or _open_with_labels(others, config.labels, log)
    if dataset is None:
        with _locked(final, log):
            dataset = _open_whole(final, log) or _make(final, config, objective, settings, corpus, log)
    require_special_tokens(dataset.tokenizer, objective, config)
    return dataset


def _check_lengths(config: DataConfig, layout: Layout) -> None:
    """Refuses before anything is read what the rows' encoders refuse once they have a tokenizer."""
    if layout == "answers":
        check_stride(config)
    elif layout == "prompts":
        check_prompt_room(config)


def stored_settings(config: DataConfig, layout: Layout) -> dict[str, Any]:
    """The settings that change the stored bytes; masking and mixing happen at reading."""
    settings: dict[str, Any] = {
        "layout": layout,
        "sequence_length": config.sequence_length,
        "tokenizer": config.tokenizer if config.tokenizer in TRAINED else "loaded",
    }
    if config.tokenizer in ("bpe", "wordpiece"):
        settings["vocab_size"] = config.vocab_size
    if layout in _EXAMPLE_SETTINGS:
        settings |= {field: getattr(config, field) for field in _EXAMPLE_SETTINGS[layout]}
    elif config.files:
        settings["documents"] = config.documents
    else:
        settings["embedded"] = config.embedded
    if not config.valid_files:
        settings |= {"valid_fraction": config.valid_fraction, "seed": config.seed}
    if layout == "pairs":
        settings |= {
            "seed": config.seed,
            "pair_copies": config.pair_copies,
            "short_pair_probability": config.short_pair_probability,
        }
    return settings


def _places(
    parent: Path,
    config: DataConfig,
    objective: str,
    settings: dict[str, Any],
    corpus: SplitCorpus | ExampleCorpus,
) -> list[Path]:
    """Where the dataset stands; if the config names labels also where it stands if they were found in the
    files, as they were before the run that now names them."""
    layout, labels = settings["layout"], list(config.labels) if has_labels(config, objective) else []
    unlabelled = parent / f"{layout}-{_cache_key(config, settings, corpus, [])}"
    if not labels:
        return [unlabelled]
    return [parent / f"{layout}-{_cache_key(config, settings, corpus, labels)}", unlabelled]


def _open_with_labels(places: list[Path], labels: tuple[str, ...], log: Log) -> Dataset | None:
    found = (_open_whole(place, log) for place in places)
    return next((dataset for dataset in found if dataset is not None and dataset.labels == labels), None)


def _cache_key(
    config: DataConfig, settings: dict[str, Any], corpus: SplitCorpus | ExampleCorpus, labels: list[str]
) -> str:
    key: list[Any] = [FORMAT_VERSION, settings, corpus.inventory, *([labels] if labels else [])]
    if config.tokenizer not in TRAINED:
        path = Path(config.tokenizer).absolute()
        if path.is_file():
            key.append([str(path), path.stat().st_size, path.stat().st_mtime_ns])
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]


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
    """Names the cache in errors of the system: it alone is written while data are prepared, and its reader
    names what cannot be read.

    Raises ValueError where the directory is not for us to write, OSError where something befell it.
    """
    try:
        yield
    except OSError as error:
        what = f"cache directory {str(directory)!r} cannot be written ({error.strerror or error})"
        if error.errno in _NOT_OURS:
            raise ValueError(f"{what}; set FLAXMILL_CACHE to one that can") from None
        if error.errno in _FULL:
            raise OSError(f"{what}; make room there, or set FLAXMILL_CACHE to a place with more") from None
        raise OSError(f"{what}; see that it stays, or set FLAXMILL_CACHE to another place") from None


@contextlib.contextmanager
def _locked(final: Path, log: Log) -> Iterator[None]:
    """Lets one process make a dataset while others wait for it; the system unlocks for a killed one."""
    with _cache_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = open(final.parent / f".{final.name}.lock", "w")  # noqa: SIM115 (closed below)
    with lock:
        # A file system without locks loses only the waiting: names are unique and publishing is atomic.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process that prepares {final}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in final.parent.glob(f".{final.name}.*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


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
    if is_task and config.tokenizer in ("bpe", "wordpiece"):
        for _ in corpus.examples():
            pass
    tokenizer = make_tokenizer(config, as_documents(corpus, objective) if is_task else corpus, log)
    require_special_tokens(tokenizer, objective, config)
    log(f"preparing {corpus.name} in {final}")
    arguments: dict[str, Any] = dict(config=config, settings=settings, tokenizer=tokenizer, log=log)
    if is_task:
        build_examples(partial, corpus=corpus, labels=labels, **arguments)
    else:
        build_dataset(partial, corpus=corpus, layout=settings["layout"], **arguments)


def _publish(partial: Path, final: Path) -> None:
    """Moves a whole dataset to its name; a whole one already there is kept, a damaged one goes."""
    try:
        os.replace(partial, final)
    except OSError:
        with contextlib.suppress(ValueError):
            open_dataset(final)
            return
        damaged = partial.with_name(f"{partial.name}.damaged.partial")
        os.replace(final, damaged)
        os.replace(partial, final)
        shutil.rmtree(damaged, ignore_errors=True)

"""Finds a config's dataset in the cache, or makes it so that only a whole one is ever seen."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from flaxmill.data.building import build_dataset
from flaxmill.data.config import DataConfig, Objective
from flaxmill.data.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedDatasetError,
    Dataset,
    Layout,
    open_dataset,
)
from flaxmill.data.held_out import SplitCorpus, split_corpus
from flaxmill.data.tokenization import TRAINED, Tokenizer, check_vocab_size, make_tokenizer

Log = Callable[[str], None]


def prepare(config: DataConfig, objective: str, *, cache: Path, log: Log = print) -> Dataset:
    """The dataset of a config and objective, from `cache` if it stands there.

    A warm start reads no text: the key is made of the settings and of the files' paths, sizes and times.
    Raises ValueError for text, tokenizers, objectives and cache directories that cannot be used.
    """
    layout = layout_of(objective)
    check_vocab_size(config)
    _check_trained_specials(config, objective)
    corpus = split_corpus(config)
    settings = stored_settings(config, layout)
    final = Path(cache) / "data" / f"{layout}-{_cache_key(config, settings, corpus)}"
    dataset = _open_whole(final, log)
    if dataset is None:
        with _locked(final, log):
            dataset = _open_whole(final, log) or _make(final, config, objective, settings, corpus, log)
    _require_special_tokens(dataset.tokenizer, objective, config)
    return dataset


def layout_of(objective: str) -> Layout:
    """Which rows an objective reads; those that read packed rows share one dataset."""
    if objective not in get_args(Objective):
        raise ValueError(f"objective={objective!r} is unknown; use one of {', '.join(get_args(Objective))}")
    return "pairs" if objective == "mlm_nsp" else "packed"


def stored_settings(config: DataConfig, layout: Layout) -> dict[str, Any]:
    """The settings that change the stored bytes; masking and mixing happen at reading."""
    settings: dict[str, Any] = {
        "layout": layout,
        "sequence_length": config.sequence_length,
        "tokenizer": config.tokenizer if config.tokenizer in TRAINED else "loaded",
    }
    if config.tokenizer in ("bpe", "wordpiece"):
        settings["vocab_size"] = config.vocab_size
    if config.files:
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


def _cache_key(config: DataConfig, settings: dict[str, Any], corpus: SplitCorpus) -> str:
    key: list[Any] = [FORMAT_VERSION, settings, corpus.inventory]
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
def _locked(final: Path, log: Log) -> Iterator[None]:
    """Lets one process make a dataset while others wait for it; the system unlocks for a killed one."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = open(final.parent / f".{final.name}.lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ValueError(
            f"cache directory {str(final.parent)!r} cannot be written ({error.strerror}); "
            "set FLAXMILL_CACHE to one that can"
        ) from None
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
    corpus: SplitCorpus,
    log: Log,
) -> Dataset:
    started = time.monotonic()
    tokenizer = make_tokenizer(config, corpus, log)
    _require_special_tokens(tokenizer, objective, config)
    log(f"preparing {corpus.name} in {final}")
    partial = final.parent / f".{final.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        layout = layout_of(objective)
        build_dataset(
            partial,
            config=config,
            layout=layout,
            settings=settings,
            corpus=corpus,
            tokenizer=tokenizer,
            log=log,
        )
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


def _check_trained_specials(config: DataConfig, objective: str) -> None:
    """Refuses before the training of a tokenizer what _require_special_tokens would refuse after it."""
    if objective == "mlm_nsp" and config.tokenizer in ("bpe", "bytes"):
        raise _lacks(["[CLS]", "[SEP]"], objective, config)


def _require_special_tokens(tokenizer: Tokenizer, objective: str, config: DataConfig) -> None:
    needed = {} if objective == "causal" else {"[MASK]": tokenizer.mask_id}
    if objective == "mlm_nsp":
        needed |= {"[CLS]": tokenizer.cls_id, "[SEP]": tokenizer.sep_id}
    if missing := [name for name, id_ in needed.items() if id_ is None]:
        raise _lacks(missing, objective, config)


def _lacks(missing: list[str], objective: str, config: DataConfig) -> ValueError:
    return ValueError(
        f"objective={objective} needs the tokens {', '.join(missing)}, which data.tokenizer="
        f"{config.tokenizer!r} lacks; use data.tokenizer={'wordpiece' if objective == 'mlm_nsp' else 'bpe'}, "
        "or one that has them"
    )

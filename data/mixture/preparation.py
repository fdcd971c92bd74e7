"""Prepares a dataset for each source of a mixture, all with one tokenizer."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.files.sources import Log
from flaxmill.data.mixture.mixed_dataset import MixedDataset
from flaxmill.data.objectives import added_tokens, data_of
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.means import LOCAL, Means
from flaxmill.data.preparation.publishing import locked
from flaxmill.data.prepared.dataset import TOKENIZER
from flaxmill.data.source import ParsedSource, parse_source
from flaxmill.data.special_tokens import check_trained_specials
from flaxmill.data.text.corpora import text_sources
from flaxmill.data.text.held_out import SplitCorpus, say_nothing, split_corpus
from flaxmill.data.text.overlap import TRAINED_AND_HELD_OUT
from flaxmill.data.tokenizer.settings import SETTINGS_FILE
from flaxmill.data.vocabulary.training import check_vocab_size, make_tokenizer
from flaxmill.data.whole_files import write_whole

Made = TypeVar("Made")

# Raise it when the same text and settings give another tokenizer.
_FORMAT = 1


def prepare_mixture(
    config: DataConfig,
    objective: str,
    *,
    cache: Path,
    log: Log = print,
    has_encoder: bool = False,
    means: Means = LOCAL,
) -> MixedDataset:
    """The datasets of data.sources and data.valid_sources, from `cache` if they are there.

    A tokenizer that is to be trained is trained once, on a sample of all data.sources, and kept in the cache.

    Raises ValueError as `prepare` does, with the name of the source, and for objectives of labelled examples.
    """
    made = for_each_source(
        prepare, config, objective, cache=cache, log=log, has_encoder=has_encoder, means=means
    )
    trained = {source.name for source in map(parse_source, config.sources)}
    return MixedDataset(
        {name: dataset for name, dataset in made.items() if name in trained},
        {name: dataset for name, dataset in made.items() if name not in trained},
    )


def for_each_source(
    make: Callable[..., Made], config: DataConfig, objective: str, *, cache: Path, log: Log, **settings: Any
) -> dict[str, Made]:
    """What `make` gives for the config of each source alone, by the source's name, which errors and the log
    begin with. `make` is `prepare`, `prepare_shard` or `finish_shards`."""
    made = {}
    for name, alone in _parts(config, objective, cache, log).items():
        with _prefixed_errors(name):
            made[name] = make(alone, objective, cache=cache, log=_prefixed(log, name), **settings)
    return made


def _parts(config: DataConfig, objective: str, cache: Path, log: Log) -> dict[str, DataConfig]:
    """The config of each source alone, by its name, with one tokenizer for all."""
    if data_of(objective).examples is not None:
        raise ValueError(
            f"objective={objective} learns from labelled examples, and data.sources mix text; name the "
            "examples in data.files"
        )
    check_vocab_size(config)
    check_trained_specials(config, objective)
    trained = [parse_source(source) for source in config.sources]
    held_out = [parse_source(source, "data.valid_sources") for source in config.valid_sources]
    _check_apart(config, [*trained, *held_out])
    if config.tokenizer in TRAINED:
        directory = _train_once(config, objective, Path(cache) / "data", log)
        config = dataclasses.replace(config, tokenizer=str(directory))
    return {source.name: _alone(config, source) for source in trained} | {
        source.name: _alone(config, source, is_held_out=True) for source in held_out
    }


def _alone(config: DataConfig, source: ParsedSource, is_held_out: bool = False) -> DataConfig:
    """The config of one source. A source that is held out alone is so wholly; it keeps its duplicates, since
    each of its documents is on both sides."""
    return dataclasses.replace(
        config,
        files=(source.spec,),
        valid_files=(source.spec,) if is_held_out else (),
        sources=(),
        valid_sources=(),
        source_changes=(),
        mix_temperature=None,
        duplicates="keep" if is_held_out else config.duplicates,
    )


def _check_apart(config: DataConfig, sources: Sequence[ParsedSource]) -> None:
    """Raises ValueError where two sources read the same: one would train on what the other holds out."""
    readers: dict[Hashable, str] = {}
    for source in sources:
        with _prefixed_errors(source.name):
            specs = ["embedded:prose", "embedded:code"] if source.spec == "embedded:all" else [source.spec]
            found = text_sources(config, specs, "data.files", say_nothing).sources
        for item in found:
            other = readers.setdefault(item.identity, source.name)
            if other != source.name:
                raise ValueError(
                    f"sources {other} and {source.name} both read {item.name}; name it in one of them, since "
                    "each holds out rows of its own"
                )


def _train_once(config: DataConfig, objective: str, parent: Path, log: Log) -> Path:
    """The directory of the mixture's tokenizer, trained if it is not there."""
    added = added_tokens(objective, config)
    corpus = mixture_corpus(config, log, are_conversations=data_of(objective).reads_conversations)
    size = config.vocab_size if config.tokenizer != "bytes" else None
    key = [_FORMAT, config.tokenizer, size, list(added), corpus.inventory, config.valid_fraction, config.seed]
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    directory = parent / f"tokenizer-{name}"
    if not (directory / TOKENIZER).is_file():
        with locked(directory, log):
            if not (directory / TOKENIZER).is_file():
                corpus.check()
                tokenizer = make_tokenizer(config, corpus, log, added)
                directory.mkdir(exist_ok=True)
                write_whole(directory / SETTINGS_FILE, tokenizer.save_settings)
                write_whole(directory / TOKENIZER, tokenizer.save)
    return directory


def mixture_corpus(config: DataConfig, log: Log, *, are_conversations: bool = False) -> SplitCorpus:
    """The documents of all data.sources: what the mixture's tokenizer is trained on."""
    sources, corpora = [parse_source(source) for source in config.sources], []
    for source in sources:
        with _prefixed_errors(source.name):
            read = functools.partial(split_corpus, are_conversations=are_conversations)
            corpora.append(read(_alone(config, source), _prefixed(log, source.name)))
    return _join(corpora, [source.name for source in sources])


def _join(corpora: Sequence[SplitCorpus], names: Sequence[str]) -> SplitCorpus:
    """The corpora one after another."""

    def check() -> None:
        for name, corpus in zip(names, corpora, strict=True):
            with _prefixed_errors(name):
                corpus.check()

    return SplitCorpus(
        f"data.sources={', '.join(names)}",
        {name: [corpus.inventory] for name, corpus in zip(names, corpora, strict=True)},
        sum(corpus.num_bytes for corpus in corpora),
        lambda: itertools.chain.from_iterable(corpus.documents() for corpus in corpora),
        check,
    )


@contextlib.contextmanager
def _prefixed_errors(name: str) -> Iterator[None]:
    """Names the source in the errors of its text."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"source {name}: {error}") from None


def _prefixed(log: Log, name: str) -> Log:
    """A log that names the source. Text that is held out wholly is named as such, not as trained on."""
    return lambda line: None if TRAINED_AND_HELD_OUT in line else log(f"{name}: {line}")

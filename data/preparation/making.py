"""Makes a dataset that is not in the cache: of text in stages, of labelled examples in one pass."""

import functools
import importlib.metadata
import time
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.conversations.rendering import can_converse, find_turn_end, with_chat_template
from flaxmill.data.duplicates.judging import looks_for_near
from flaxmill.data.duplicates.signatures import find_library
from flaxmill.data.examples.corpus import ExampleCorpus, as_documents, find_labels
from flaxmill.data.files.sources import Log
from flaxmill.data.objectives import data_of
from flaxmill.data.preparation.beam import check_beam, encode_on_beam, run_on_beam
from flaxmill.data.preparation.cache_places import Places, stored_framing
from flaxmill.data.preparation.example_building import build_examples
from flaxmill.data.preparation.groups import make_groups
from flaxmill.data.preparation.means import Means
from flaxmill.data.preparation.publishing import cache_errors, fresh_directory, publish
from flaxmill.data.preparation.text_building import TextBuild, build_dataset, encode_corpus
from flaxmill.data.preparation.work_directory import WorkDirectory, cleared_after
from flaxmill.data.preparation.workers import count_cores, run_in_order
from flaxmill.data.prepared.dataset import TOKENIZER, Dataset, open_dataset
from flaxmill.data.prepared.manifest import MANIFEST
from flaxmill.data.special_tokens import require_special_tokens
from flaxmill.data.text.held_out import SplitCorpus
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import SETTINGS_FILE
from flaxmill.data.vocabulary.training import make_tokenizer
from flaxmill.data.vocabulary.unknown import look_ahead
from flaxmill.data.whole_files import write_whole

# Starting a worker takes as long as encoding a few MB.
_WORKER_BYTES = 32 * 1024 * 1024


class Wanted(NamedTuple):
    """What is asked for, before it is known whether it is there."""

    config: DataConfig
    objective: str
    settings: dict[str, Any]
    corpus: SplitCorpus | ExampleCorpus
    places: Places

    @property
    def final(self) -> Path:
        return self.places.own


def make_dataset(wanted: Wanted, means: Means, log: Log) -> Dataset:
    """Makes what is wanted. Raises ValueError for what it cannot be made of."""
    started = time.monotonic()
    final = wanted.final
    try:
        with cache_errors(final.parent):
            if isinstance(wanted.corpus, ExampleCorpus):
                if means.beam_flags is not None:
                    raise ValueError(
                        f"objective={wanted.objective} learns from labelled examples, which one process "
                        "prepares; leave out --beam"
                    )
                _make_of_examples(wanted, log)
            else:
                _make_of_text(wanted, means, log)
    except OSError:  # without locks another process may have been faster, and tidied up
        if not (final / MANIFEST).is_file():
            raise
    dataset = open_dataset(final)
    train, valid = dataset.statistics["train"], dataset.statistics["valid"]
    log(
        f"prepared {train['num_tokens']:,} training and {valid['num_tokens']:,} held-out tokens "
        f"in {time.monotonic() - started:.1f} s"
    )
    return dataset


def _make_of_text(wanted: Wanted, means: Means, log: Log) -> None:
    if means.beam_flags is not None:
        check_beam(wanted.config)
    check_libraries(wanted.config)
    work = WorkDirectory.beside(wanted.final)
    work.begin(work_key())
    with cleared_after(work):
        build = begin_text(wanted, work, means, log)
        log(f"preparing {wanted.corpus.name} in {wanted.final}")
        groups = make_groups(build.corpus.streams())
        if means.beam_flags is not None:
            encode_on_beam(groups, work, build.config, build.layout, build.corpus.inventory, means.beam_flags)
        encode_corpus(build, groups)
        with fresh_directory(wanted.final) as directory:
            build_dataset(build, groups, directory)
            publish(directory, wanted.final)


def check_libraries(config: DataConfig) -> None:
    """Raises ValueError where a library is missing, before anything is made, or lost since it is missing."""
    if looks_for_near(config.duplicates):
        find_library()


def begin_text(wanted: Wanted, work: WorkDirectory, means: Means, log: Log) -> TextBuild:
    """Everything that comes before the text is encoded: a bad file is found in a moment, a vocabulary takes
    minutes. The tokenizer of an unfinished preparation is never trained again."""
    config, corpus = wanted.config, wanted.corpus
    assert isinstance(corpus, SplitCorpus)
    corpus.check()
    tokenizer = _make_tokenizer(wanted, corpus, work.directory, log)
    settings = wanted.settings | stored_framing(config, tokenizer, wanted.settings["layout"])
    if data_of(wanted.objective).reads_conversations:
        _say_what_is_lost(config, tokenizer, log)
    look_ahead(corpus.documents(), tokenizer, corpus.name, log)
    if means.beam_flags is None:
        most = max(1, min(count_cores(), corpus.num_bytes // _WORKER_BYTES))
        run = functools.partial(run_in_order, num_workers=means.num_workers or most)
    else:
        run = functools.partial(run_on_beam, work=work, flags=means.beam_flags)
    return TextBuild(work, config, settings, corpus, tokenizer, run, log)


def _say_what_is_lost(config: DataConfig, tokenizer: Tokenizer, log: Log) -> None:
    """Says what no error shows, and what a model trained on conversations would lack."""
    if config.packing == "concatenate":
        log("data.packing=concatenate cuts conversations where rows end; best_fit keeps them whole")
    if find_turn_end(tokenizer) is None:
        log(
            "the chat template puts no special token behind what the assistant says, so that nothing teaches "
            "a model to end its turn"
        )


def work_key() -> dict[str, str]:
    """What decides the pieces of a dataset and is not in its name."""
    return {"tokenizers": importlib.metadata.version("tokenizers")}


def _make_of_examples(wanted: Wanted, log: Log) -> None:
    config, objective, corpus = wanted.config, wanted.objective, wanted.corpus
    assert isinstance(corpus, ExampleCorpus)
    corpus.check()
    labels = find_labels(config, objective, corpus)
    if config.tokenizer in TRAINED and config.tokenizer != "bytes":
        for _ in corpus.examples():  # a bad one is found before a vocabulary is trained
            pass
    texts = as_documents(corpus, objective)
    with fresh_directory(wanted.final) as rows, fresh_directory(wanted.final) as directory:
        tokenizer = _make_tokenizer(wanted, texts, directory, log)
        look_ahead(texts.documents(), tokenizer, corpus.name, log)
        log(f"preparing {corpus.name} in {wanted.final}")
        build_examples(
            directory,
            scratch=rows,
            config=config,
            settings=wanted.settings | stored_framing(config, tokenizer, wanted.settings["layout"]),
            corpus=corpus,
            tokenizer=tokenizer,
            labels=labels,
            log=log,
        )
        publish(directory, wanted.final)


def _make_tokenizer(wanted: Wanted, corpus: SplitCorpus, directory: Path, log: Log) -> Tokenizer:
    """The tokenizer that the files in `directory` hold, which are written if they are not there.

    It is always read back, so that rows are made by what will be stored beside them.
    """
    if not (directory / TOKENIZER).is_file():
        made = make_tokenizer(wanted.config, corpus, log, wanted.settings.get("added_tokens", ()))
        require_special_tokens(made, wanted.objective, wanted.config)
        data = data_of(wanted.objective)
        if data.reads_conversations or (data.may_converse and can_converse(made)):
            made = with_chat_template(made)
        write_whole(directory / SETTINGS_FILE, made.save_settings)
        write_whole(directory / TOKENIZER, made.save)
    return Tokenizer.load(directory / TOKENIZER, is_trusted=True)

"""Finds a config's dataset in the cache, or has it made so that only a whole one is ever seen."""

from pathlib import Path

from flaxmill.data.config import TRAINED, DataConfig, Layout
from flaxmill.data.duplicates.judging import check_duplicates
from flaxmill.data.examples.answer_rows import check_stride
from flaxmill.data.examples.corpus import split_examples
from flaxmill.data.examples.target_rows import check_prompt_room
from flaxmill.data.files.sources import Log
from flaxmill.data.files.specs import EMBEDDED, is_local
from flaxmill.data.objectives import BUILT_IN, added_tokens, data_of, find_function, has_labels, layout_of
from flaxmill.data.preparation.beside import run_beside
from flaxmill.data.preparation.cache_places import Places, find_places, reads_as_before, stored_settings
from flaxmill.data.preparation.groups import (
    MachineShard,
    groups_of_shard,
    keep_shard_count,
    make_groups,
    require_shards,
)
from flaxmill.data.preparation.making import Wanted, begin_text, check_libraries, make_dataset, work_key
from flaxmill.data.preparation.means import LOCAL, Means
from flaxmill.data.preparation.publishing import cache_errors, locked, open_and_tidy, open_whole
from flaxmill.data.preparation.text_building import encode_corpus
from flaxmill.data.preparation.text_corpus import find_text
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.prepared.dataset import Dataset, open_dataset
from flaxmill.data.special_tokens import check_trained_specials, require_special_tokens
from flaxmill.data.text.held_out import SplitCorpus
from flaxmill.data.vocabulary.training import check_vocab_size, load_tokenizer


def prepare(
    config: DataConfig,
    objective: str,
    *,
    cache: Path,
    log: Log = print,
    has_encoder: bool = False,
    means: Means = LOCAL,
) -> Dataset:
    """The dataset of a config and objective, from `cache` if it is there.

    A warm start reads no text: the key is made of the settings and of the files' paths, sizes and times. What
    a killed preparation has done is not done again.

    Args:
      has_encoder: the model is an encoder-decoder, which reads a seq2seq source apart from its target.
      means: what prepares text that is not in the cache.

    Raises ValueError for text, examples, tokenizers, objectives and cache directories that cannot be used.
    """
    wanted = _look_up(config, objective, cache, log, has_encoder)
    dataset = open_and_tidy(wanted.final, log) or _open_alike(wanted.places, config, log)
    if dataset is None:
        with locked(wanted.final, log):
            dataset = open_whole(wanted.final, log)
            if dataset is None and means.beside and _is_known_elsewhere(config, objective):
                run_beside(_make_here, config, objective, cache, has_encoder, log=log)
                dataset = open_dataset(wanted.final)
            elif dataset is None:
                dataset = make_dataset(wanted, means, log)
    require_special_tokens(dataset.tokenizer, objective, config)
    return dataset


def _is_known_elsewhere(config: DataConfig, objective: str) -> bool:
    """Whether another process finds the same: what a user's Python file has defined is this process's alone,
    and so are files in its memory."""
    specs = (*config.files, *config.valid_files)
    return objective in BUILT_IN and all(is_local(spec) or spec.startswith(EMBEDDED) for spec in specs)


def _make_here(config: DataConfig, objective: str, cache: Path, has_encoder: bool, log: Log) -> None:
    """Makes what another process has looked up and locked, and has said what there is to say of that."""
    is_found = False

    def say(line: str) -> None:
        if is_found:
            log(line)

    wanted = _look_up(config, objective, cache, say, has_encoder)
    is_found = True
    make_dataset(wanted, LOCAL, say)


def prepare_shard(
    config: DataConfig,
    objective: str,
    shard: MachineShard,
    *,
    cache: Path,
    log: Log = print,
    means: Means = LOCAL,
) -> None:
    """Encodes the share of one of several machines that see the same files and the same `cache`;
    `finish_shards` makes the dataset of all.

    Raises ValueError as `prepare` does, for labelled examples, and for another number of shards than before.
    """
    wanted, corpus = _look_up_text(config, objective, cache, log)
    if open_whole(wanted.final, log) is not None:
        log(f"{wanted.final} is whole already")
        return
    check_libraries(config)
    with locked(_shard_lock(wanted.final, shard), log), cache_errors(wanted.final.parent):
        work = WorkDirectory.beside(wanted.final)
        work.begin(work_key())
        keep_shard_count(work, shard)
        with locked(work.tokenizer, log):
            build = begin_text(wanted, work, means, log)
        ours = groups_of_shard(make_groups(corpus.streams()), shard)
        log(f"preparing shard {shard.index}/{shard.count} of {corpus.name} in {work.directory}")
        encode_corpus(build, ours)
        log(f"shard {shard.index}/{shard.count} is done; once all are, run `flaxmill data finish`")


def finish_shards(
    config: DataConfig,
    objective: str,
    *,
    cache: Path,
    log: Log = print,
    means: Means = LOCAL,
) -> Dataset:
    """The dataset of what `prepare_shard` encoded on all machines.

    Raises ValueError where shards are missing, and names them.
    """
    wanted, corpus = _look_up_text(config, objective, cache, log)
    dataset = open_and_tidy(wanted.final, log)
    if dataset is None:
        with locked(wanted.final, log):
            dataset = open_whole(wanted.final, log)
            if dataset is None:
                require_shards(WorkDirectory.beside(wanted.final), make_groups(corpus.streams()))
                dataset = make_dataset(wanted, means, log)
    return dataset


def _look_up(config: DataConfig, objective: str, cache: Path, log: Log, has_encoder: bool) -> Wanted:
    layout = layout_of(objective, has_encoder)
    check_vocab_size(config)
    check_trained_specials(config, objective)
    _check_lengths(config, layout)
    _check_bad_rows(config, objective)
    check_duplicates(config, objective)
    data = data_of(objective)
    if data.examples is not None:
        corpus = split_examples(config, objective, log)
    else:
        corpus = find_text(config, layout, log)
    settings = stored_settings(config, layout)
    if data.settings is not None:
        settings |= find_function(data.settings)(config)
    added = added_tokens(objective, config)
    if added and config.tokenizer in TRAINED:
        settings["added_tokens"] = list(added)
    labels = config.labels if has_labels(config, objective) else ()
    places = find_places(Path(cache) / "data", config, settings, corpus.inventory, labels)
    return Wanted(config, objective, settings, corpus, places)


def _look_up_text(config: DataConfig, objective: str, cache: Path, log: Log) -> tuple[Wanted, SplitCorpus]:
    if data_of(objective).examples is not None:
        raise ValueError(
            f"objective={objective} learns from labelled examples, which one machine prepares; leave out "
            "--shard and use `flaxmill data prepare`"
        )
    wanted = _look_up(config, objective, cache, log, has_encoder=False)
    assert isinstance(wanted.corpus, SplitCorpus)
    return wanted, wanted.corpus


def _shard_lock(final: Path, shard: MachineShard) -> Path:
    return final.with_name(f"{final.name}-{shard.index}-of-{shard.count}")


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
    elif layout == "conversations" and config.packing == "full_sentences":
        raise ValueError(
            "data.packing=full_sentences ends rows where sentences end, which is not for conversations; use "
            "best_fit, which keeps them whole"
        )


def _open_alike(places: Places, config: DataConfig, log: Log) -> Dataset | None:
    """A dataset that was made under another name but holds the same rows."""
    if places.unnamed and (dataset := open_whole(places.unnamed, log)) and dataset.labels == config.labels:
        return dataset
    if places.former and (dataset := open_whole(places.former, log)):
        return dataset if reads_as_before(dataset, config, load_tokenizer(config, log)) else None
    return None

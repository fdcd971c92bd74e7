"""Makes the dataset of a corpus in stages: encode the parts, plan, write units of rows, finish.

Each stage is a pure function of the ones before, so that what is done stays done whatever ends a process, and
the dataset is the same whatever number of processes or machines made it.
"""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig, Layout
from flaxmill.data.examples.framing import document_frame
from flaxmill.data.files.sources import Log
from flaxmill.data.preparation.contamination import measure_contamination
from flaxmill.data.preparation.encoding import make_part_encoder
from flaxmill.data.preparation.finishing import finish_dataset
from flaxmill.data.preparation.groups import Group, encode_groups, read_record
from flaxmill.data.preparation.plan import SPLITS, Plan, make_plan
from flaxmill.data.preparation.planned_documents import PlannedDocuments
from flaxmill.data.preparation.row_units import (
    RowSettings,
    UnitResult,
    make_unit_writer,
    make_units,
    tokens_per_unit,
)
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.prepared.dataset import TOKENIZER
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.text.entropy import bigram_entropy, unigram_entropy
from flaxmill.data.text.held_out import Split, SplitCorpus
from flaxmill.data.text.pairs import WINDOW_DOCUMENTS
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.roles import Frame
from flaxmill.data.tokenizer.settings import SETTINGS_FILE
from flaxmill.data.vocabulary.unknown import judge_unknown


class TextBuild(NamedTuple):
    """A corpus that is being prepared, and how.

    settings: the stored settings of the dataset.
    run: calls (make, arguments, tasks), and gives what `make(*arguments)` gives for each task, in order.
    """

    work: WorkDirectory
    config: DataConfig
    settings: dict[str, Any]
    corpus: SplitCorpus
    tokenizer: Tokenizer
    run: Callable[..., Iterator[Any]]
    log: Log

    @property
    def layout(self) -> Layout:
        return self.settings["layout"]


def encode_corpus(build: TextBuild, groups: Sequence[Group]) -> None:
    """Encodes the documents of these groups into parts.

    Raises ValueError for text that cannot be read or encoded.
    """
    arguments = (build.config, build.layout, build.work.tokenizer)
    run = functools.partial(build.run, make_part_encoder, arguments)
    encode_groups(groups, build.work, run, build.log)


def build_dataset(build: TextBuild, groups: Sequence[Group], directory: Path) -> None:
    """Fills an empty directory with the dataset of encoded groups.

    Raises ValueError on empty splits.
    """
    settings = _row_settings(build)
    plan = make_plan(
        groups,
        build.work,
        build.config,
        num_leading=len(_frame(build).before),
        tokens_per_cut=tokens_per_unit(settings),
        has_turns=build.layout == "conversations",
    )
    _check_documents(build, plan)
    units = make_units(plan, settings)
    documents = PlannedDocuments(build.work, plan)
    joined = PlannedDocuments(build.work, plan, joins_bits=build.layout == "conversations")
    arguments = (build.work, joined, settings)
    results: list[UnitResult] = list(build.run(make_unit_writer, arguments, iter(units)))
    for split in SPLITS:
        _require_rows(build, plan, split, _of_split(results, split))
        judge_unknown(plan.splits[split].unknown, build.tokenizer, f"{build.corpus.name}, {split}", build.log)
    statistics = _with_skipped(_statistics(build, plan, results), build, groups)
    if not _trains_on_held_out(groups):
        for split in SPLITS:
            statistics[split] |= plan.duplicates[split]
        statistics["valid"] |= measure_contamination(build.work, plan, documents, _frame(build), build.run)
    # Not saved again: the tokenizers library rounds the scores that it reads, so a copy of a copy differs.
    shutil.copyfile(build.work.tokenizer, directory / TOKENIZER)
    shutil.copyfile(build.work.settings, directory / SETTINGS_FILE)
    finish_dataset(
        directory,
        corpus_name=build.corpus.name,
        settings=build.settings,
        tokenizer=build.tokenizer,
        digest=plan.digest,
        shards={
            split: [result.shard for result in _of_split(results, split) if result.shard.num_rows]
            for split in SPLITS
        },
        statistics=statistics,
    )


def _row_settings(build: TextBuild) -> RowSettings:
    tokenizer = build.tokenizer
    return RowSettings(
        layout=build.layout,
        packing=build.config.packing,
        row_length=build.settings["sequence_length"],
        record_format=record_format(build.settings, tokenizer.vocab_size, num_labels=0),
        config=build.config,
        special_ids=(tokenizer.cls_id, tokenizer.sep_id),
        window_documents=WINDOW_DOCUMENTS,
    )


def _frame(build: TextBuild) -> Frame:
    """The special tokens around each document."""
    is_packed = build.layout == "packed"
    return document_frame(build.tokenizer, build.config.framing) if is_packed else Frame((), ())


def _trains_on_held_out(groups: Sequence[Group]) -> bool:
    """Whether the same files are trained on and held out, so that all their documents are on both sides."""
    train, valid = (
        {
            source.identity
            for group in groups
            for source in group.sources.sources
            if group.split == split and source.inventory
        }
        for split in SPLITS
    )
    return bool(train & valid)


def _of_split(results: Sequence[UnitResult], split: Split) -> list[UnitResult]:
    return [result for result in results if result.unit.split == split]


def _check_documents(build: TextBuild, plan: Plan) -> None:
    is_random = build.layout == "pairs" and build.config.pair_task == "next"
    if is_random and plan.splits["train"].num_documents == 1:
        raise ValueError(
            f"{build.corpus.name} gives 1 training document, but a random second sentence comes from another "
            "one; give more files, or data.documents=blank_lines with a blank line between documents"
        )


def _require_rows(build: TextBuild, plan: Plan, split: Split, results: Sequence[UnitResult]) -> None:
    if not sum(result.shard.num_rows for result in results):
        its_plan = plan.splits[split]
        raise ValueError(
            f"{build.corpus.name} gives no {split} rows ({its_plan.num_documents} documents, "
            f"{its_plan.num_tokens} tokens); give more "
            f"{'text' if split == 'train' else 'held-out text, see data.valid_files'}"
        )


def _statistics(build: TextBuild, plan: Plan, results: Sequence[UnitResult]) -> dict[Split, dict[str, Any]]:
    statistics: dict[Split, dict[str, Any]] = {}
    for split in SPLITS:
        ours = _of_split(results, split)
        num_rows = sum(result.shard.num_rows for result in ours)
        # The order of the fields is that of version 0.1.0.
        its_own = plan.splits[split].statistics()
        histogram = its_own.pop("length_histogram")
        num_unknown = its_own.pop("num_unknown")
        statistics[split] = its_own | {
            "num_rows": num_rows,
            "num_unknown": num_unknown,
            "length_histogram": histogram,
        }
        if build.layout == "pairs":
            statistics[split]["rows_per_copy"] = _rows_per_copy(ours)
        elif build.config.packing != "concatenate":
            places = num_rows * build.settings["sequence_length"]
            statistics[split]["fill"] = sum(result.num_tokens for result in ours) / max(places, 1)
        if build.layout == "conversations":
            statistics[split]["num_targets"] = sum(result.num_positive for result in ours)
    train, valid = plan.splits["train"], plan.splits["valid"]
    statistics["valid"]["unigram_entropy"] = unigram_entropy(valid.sample)
    statistics["valid"]["bigram_entropy"] = bigram_entropy(
        train.sample, valid.sample, build.tokenizer.vocab_size
    )
    if build.layout == "pairs":
        num_positive = sum(result.num_positive for result in _of_split(results, "valid"))
        share = num_positive / statistics["valid"]["num_rows"]
        statistics["valid"]["nsp_majority"] = max(share, 1.0 - share)
    return statistics


def _rows_per_copy(results: Sequence[UnitResult]) -> list[int]:
    copies = sorted({result.unit.copy for result in results})
    return [sum(result.shard.num_rows for result in results if result.unit.copy == copy) for copy in copies]


def _with_skipped(
    statistics: dict[Split, dict[str, Any]], build: TextBuild, groups: Sequence[Group]
) -> dict[Split, dict[str, Any]]:
    """Adds the number of bad rows that were skipped, and says it."""
    for group in groups:
        record = read_record(build.work, group.number)
        if group.sources.skipped is not None and record is not None:
            group.sources.skipped.restore(record.skipped)
    for split, skipped in build.corpus.skipped.items():
        statistics[split]["num_bad_rows"] = skipped.total
        if skipped.total:
            build.log(f"skipped {skipped.describe()}")
    return statistics

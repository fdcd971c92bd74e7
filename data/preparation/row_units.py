"""Units of work of which each makes one shard of rows from planned documents, whatever the others do."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig, Layout, Packing
from flaxmill.data.conversations.encoding import split_bits
from flaxmill.data.preparation.plan import SPLITS, Plan, SplitPlan
from flaxmill.data.preparation.planned_documents import PlannedDocuments
from flaxmill.data.preparation.work_directory import WorkDirectory, read_json, write_json
from flaxmill.data.prepared.records import RecordFormat
from flaxmill.data.prepared.shards import WrittenShard, rows_per_shard, write_shard
from flaxmill.data.text.fitted_packing import OPEN_ROWS, FittedPacker
from flaxmill.data.text.held_out import Split
from flaxmill.data.text.packing import Packer
from flaxmill.data.text.pairs import SentenceDocument, Window, cut_pairs

# A packer ends with open rows that are not quite full; a unit has many times as many rows.
_FITTED_ROWS = 64 * OPEN_ROWS


class Unit(NamedTuple):
    """The rows of one shard: those of the split's documents, or tokens, from `start` to before `stop`.

    copy: the number of the plan of sentence pairs; 0 for all other rows.
    """

    split: Split
    copy: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.copy}-{self.start:012d}"


class UnitResult(NamedTuple):
    """What a unit wrote.

    num_tokens: those in its rows; num_positive: its pairs with label 1, or its tokens that are predicted.
    """

    unit: Unit
    shard: WrittenShard
    num_tokens: int
    num_positive: int


class RowSettings(NamedTuple):
    """What decides rows, besides the plan."""

    layout: Layout
    packing: Packing
    row_length: int
    record_format: RecordFormat
    config: DataConfig
    special_ids: tuple[int | None, int | None]
    """[CLS] and [SEP]."""
    window_documents: int
    """Random second sentences come from so many neighbouring documents."""


def tokens_per_unit(settings: RowSettings) -> int:
    """About the tokens of a unit of pairs, or of rows that hold whole documents."""
    num_rows = rows_per_shard(settings.record_format)
    is_fitted = settings.layout != "pairs" and settings.packing != "concatenate"
    return settings.row_length * (max(num_rows, _FITTED_ROWS) if is_fitted else num_rows)


def make_units(plan: Plan, settings: RowSettings) -> list[Unit]:
    """The units of both splits, in the order of their rows."""
    units = []
    for split in SPLITS:
        is_pairs = settings.layout == "pairs"
        num_copies = settings.config.pair_copies if is_pairs and split == "train" else 1
        starts = _find_starts(plan.splits[split], settings)
        units += [
            Unit(split, copy, start, stop) for copy in range(num_copies) for start, stop in pairwise(starts)
        ]
    return units


def _find_starts(plan: SplitPlan, settings: RowSettings) -> list[int]:
    """The documents or tokens at which units begin, and then the number of all."""
    if not plan.num_documents:
        return []
    if settings.layout != "pairs" and settings.packing == "concatenate":
        num_tokens = settings.row_length * rows_per_shard(settings.record_format)
        # A unit's last target is the next unit's first token, and alone that token makes no row.
        return [*range(0, max(1, plan.num_tokens - 1), num_tokens), plan.num_tokens]
    multiple = settings.window_documents if settings.layout == "pairs" else 1
    rounded = dict.fromkeys(-(-cut // multiple) * multiple for cut in plan.cuts)
    last = plan.num_documents - multiple
    return [0, *(start for start in rounded if start <= last), plan.num_documents]


def make_unit_writer(
    work: WorkDirectory, documents: PlannedDocuments, settings: RowSettings
) -> Callable[[Unit], UnitResult]:
    """What writes units into the work directory, unless they are there and whole.

    It raises OSError where a shard cannot be written, UnfinishedError where a part is damaged.
    """
    own = {"pairs": _pair_rows, "conversations": _conversation_rows}
    make_rows = own.get(settings.layout, _PACKERS[settings.packing])

    def run(unit: Unit) -> UnitResult:
        path = work.rows(unit.name)
        written = _read_result(unit, path)
        if written is None:
            counts = _Counts()
            shard = write_shard(path, settings.record_format, make_rows(unit, documents, settings, counts))
            written = UnitResult(unit, shard, counts.num_tokens, counts.num_positive)
            write_json(path.with_suffix(".json"), _as_json(written))
        return written

    return run


class _Counts:
    """What is counted while rows are made."""

    def __init__(self):
        self.num_tokens = self.num_positive = 0


Rows = Iterator[dict[str, np.ndarray]]


def _concatenated_rows(
    unit: Unit, documents: PlannedDocuments, settings: RowSettings, counts: _Counts
) -> Rows:
    num_tokens = documents.num_tokens(unit.split)
    stop = min(unit.stop + 1, num_tokens)
    packer = None
    for is_rest, found in documents.read_tokens(unit.split, unit.start, stop):
        packer = packer or Packer(settings.row_length, continues=is_rest)
        yield packer.add(found)
    if unit.stop == num_tokens and packer is not None:
        yield packer.finish()


def _fitted_rows(unit: Unit, documents: PlannedDocuments, settings: RowSettings, counts: _Counts) -> Rows:
    packer = FittedPacker(settings.row_length, settings.packing)
    for found in documents.read(unit.split, unit.start, unit.stop):
        yield packer.add(found.tokens)
    yield packer.finish()
    counts.num_tokens = packer.num_tokens


def _sentence_rows(unit: Unit, documents: PlannedDocuments, settings: RowSettings, counts: _Counts) -> Rows:
    packer = FittedPacker(settings.row_length, settings.packing)
    for found in documents.read(unit.split, unit.start, unit.stop, with_sentences=True):
        yield packer.add_parts(
            [
                np.split(tokens, np.cumsum(lengths[:-1]))
                for tokens, lengths in zip(found.tokens, found.sentences, strict=True)
            ]
        )
    yield packer.finish()
    counts.num_tokens = packer.num_tokens


_PACKERS = {
    "concatenate": _concatenated_rows,
    "best_fit": _fitted_rows,
    "first_fit": _fitted_rows,
    "full_sentences": _sentence_rows,
}


def _conversation_rows(
    unit: Unit, documents: PlannedDocuments, settings: RowSettings, counts: _Counts
) -> Rows:
    for joined in _PACKERS[settings.packing](unit, documents, settings, counts):
        rows = split_bits(joined)
        # The last place of a row is a target only, and the first token of another row as well.
        is_target = np.unpackbits(rows["is_target"], axis=1, count=settings.row_length)
        counts.num_positive += int(is_target.sum())
        yield rows


def _pair_rows(unit: Unit, documents: PlannedDocuments, settings: RowSettings, counts: _Counts) -> Rows:
    cls_id, sep_id = settings.special_ids
    assert cls_id is not None
    assert sep_id is not None
    for window in _windows(unit, documents, settings.window_documents):
        rows = cut_pairs(
            window,
            seed=settings.config.seed,
            copy=unit.copy,
            sequence_length=settings.row_length,
            short_pair_probability=settings.config.short_pair_probability,
            cls_id=cls_id,
            sep_id=sep_id,
            task=settings.config.pair_task,
        )
        counts.num_positive += int(rows["label"].sum())
        yield rows


def _windows(unit: Unit, documents: PlannedDocuments, size: int) -> Iterator[list[SentenceDocument]]:
    window, number = Window(size), unit.start
    for found in documents.read(unit.split, unit.start, unit.stop, with_sentences=True):
        for tokens, lengths in zip(found.tokens, found.sentences, strict=True):
            ends = np.cumsum([0, *lengths], dtype=np.int64).tolist()
            if full := window.add(SentenceDocument(number, tokens, ends)):
                yield full
            number += 1
    if rest := window.finish():
        yield rest


def _as_json(result: UnitResult) -> dict[str, Any]:
    shard = result.shard
    return result._asdict() | {
        "shard": [shard.num_rows, shard.path.stat().st_size, shard.sha256],
    }


def _read_result(unit: Unit, path: Path) -> UnitResult | None:
    """What was written of a unit before; None: it was not, or not whole."""
    values = read_json(path.with_suffix(".json"))
    if values is None or values["unit"] != list(unit) or not path.is_file():
        return None
    num_rows, num_bytes, sha256 = values["shard"]
    if path.stat().st_size != num_bytes:
        return None
    return UnitResult(
        unit, WrittenShard(path, num_rows, sha256), values["num_tokens"], values["num_positive"]
    )

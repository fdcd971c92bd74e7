"""Makes the batch of a step from the rows of all sources, as a pure function of (seed, step, row)."""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.draws import SOURCE, bits
from flaxmill.data.mixture.mixed_dataset import MixedDataset
from flaxmill.data.mixture.schedule import Change, Schedule, weigh_by_size
from flaxmill.data.source import parse_change, parse_source
from flaxmill.data.stored_rows import NumpyBatch, Rows, join_rows

# B rows of a batch, K sources, n rows read at once

_STEPS_AT_ONCE = 8
_BLOCKS_KEPT = 4  # steps that are read ahead in threads lie in three or four


class _Block(NamedTuple):
    """The stored rows of neighbouring steps, in order, and their sources.

    of_step: the first row of a step that this host reads, and the first that it does not.
    """

    steps: range
    of_step: tuple[int, int]
    rows: Rows
    sources: np.ndarray


class MixedBatches:
    """Training batches of a mixture, by random access; see `Batches` for one source's.

    Row r of the batch of a step is row g = step * batch_size + r of the run. The schedule says from g alone
    which source gives it, and which of that source's rows it is. Each source is read as it would be alone, in
    an order of its own for each epoch. A batch also has int32 [n] `sources`: the number of each row's source.
    """

    def __init__(
        self,
        dataset: MixedDataset,
        *,
        config: DataConfig,
        objective: str,
        batch_size: int,
        seed: int,
        decoder_start_id: int | None = None,
    ):
        self._parts = [
            Batches(
                part,
                "train",
                config=config,
                objective=objective,
                batch_size=batch_size,
                seed=_seed_of(name, seed),
                decoder_start_id=decoder_start_id,
            )
            for name, part in dataset.sources.items()
        ]
        self.batch_size = batch_size
        self.tokenizer = dataset.tokenizer
        self.label_names = dataset.label_names
        self.max_predictions = self._parts[0].max_predictions
        self.num_tokens = self._parts[0].num_tokens
        self.num_rows = sum(part.num_rows for part in self._parts)
        self.num_batches = -(-self.num_rows // batch_size)
        self.schedule = _make_schedule(config, self._parts, batch_size)
        # The newest blocks by the number of each and its rows of a step; being read, or read.
        self._blocks: OrderedDict[tuple[int, int, int], Future[_Block]] = OrderedDict()
        self._lock = threading.Lock()

    def batch(self, step: int) -> NumpyBatch:
        """All rows of the batch at a step."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> NumpyBatch:
        """Rows start..stop-1 of the batch at a step: the rows that one of several hosts reads."""
        return self.parts(step, start, stop, [range(self.num_tokens)])[0]

    def parts(self, step: int, start: int, stop: int, tokens: Sequence[range]) -> list[NumpyBatch]:
        """`rows` of these tokens alone, a batch for each range; see `Batches.parts`."""
        assert 0 <= start < stop <= self.batch_size
        block = self._find_block(step, start, stop)
        size = stop - start
        place = (step - block.steps.start) * size
        rows, exists = block.rows.cut(place, place + size), np.ones(size, bool)
        sources = block.sources[place : place + size].astype(np.int32)
        return [
            self._parts[0].make(rows._replace(tokens=part), exists) | {"sources": sources} for part in tokens
        ]

    def _find_block(self, step: int, start: int, stop: int) -> "_Block":
        """The block of this step: threads that need the same one wait for the first, which reads it."""
        key = step // _STEPS_AT_ONCE, start, stop
        with self._lock:
            is_new = key not in self._blocks
            found = self._blocks.setdefault(key, Future())
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        if is_new:
            try:
                found.set_result(self._read_block(step, start, stop))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)
                found.set_exception(error)
        block = found.result()
        # A step beyond the end of the mixture is in no block, and is refused when it is read.
        return block if step in block.steps else self._read_block(step, start, stop)

    def _read_block(self, step: int, start: int, stop: int) -> "_Block":
        """The stored rows of this step and of its neighbours: few rows of many files take long to read."""
        first = step // _STEPS_AT_ONCE * _STEPS_AT_ONCE
        last = first + _STEPS_AT_ONCE
        if self.schedule.num_rows is not None:
            # A step beyond the end is located by itself, which refuses it.
            last = max(step + 1, min(last, self.schedule.num_rows // self.batch_size))
        steps = range(first, last)
        numbers = (np.array(steps)[:, None] * self.batch_size + np.arange(start, stop)).ravel()
        sources, numbers = self.schedule.locate(numbers)
        by_source = np.argsort(sources, kind="stable")
        parts = [
            self._parts[source].read(numbers[by_source[sources[by_source] == source]])
            for source in np.unique(sources)
        ]
        rows = join_rows(parts, np.argsort(by_source, kind="stable"))
        return _Block(steps, (start, stop), rows, sources)

    def check_length(self, num_steps: int) -> None:
        """Raises ValueError where the sources are used up before the run ends."""
        num_rows = self.schedule.num_rows
        if num_rows is not None and num_rows < num_steps * self.batch_size:
            last = num_rows // self.batch_size
            raise ValueError(
                f"data.sources are used up after {num_rows:,} rows, which are {last} of steps={num_steps}; "
                f"allow more epochs, or give --steps {last}"
            )


def _make_schedule(config: DataConfig, parts: list[Batches], batch_size: int) -> Schedule:
    sources = [parse_source(source) for source in config.sources]
    limits = [
        None if source.epochs is None else part.count_rows(source.epochs)
        for source, part in zip(sources, parts, strict=True)
    ]
    sizes = {source.name: part.num_rows for source, part in zip(sources, parts, strict=True)}
    weights = {source.name: source.weight for source in sources}
    changes = []
    for step, changed in ((0, {}), *map(parse_change, config.source_changes)):
        weights.update(changed)
        scaled = weights
        if config.mix_temperature is not None:
            scaled = weigh_by_size(weights, sizes, config.mix_temperature)
        changes.append(Change(step * batch_size, tuple(scaled[source.name] for source in sources)))
    return Schedule(changes, limits)


def _seed_of(name: str, seed: int) -> int:
    """A seed for the source: which other sources there are does not change the order of its rows."""
    return int(bits(SOURCE, seed, zlib.crc32(name.encode()))[0])

"""Groups of neighbouring sources: what one machine reads in order, and encodes part by part."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from flaxmill.data.files.sources import InputSource, InputSources, Log
from flaxmill.data.messages import shorten
from flaxmill.data.preparation.encoding import PartTask
from flaxmill.data.preparation.parts import cut_into_parts, size_of
from flaxmill.data.preparation.work_directory import WorkDirectory, read_json, write_json
from flaxmill.data.text.held_out import Split, Stream

# Enough files to make parts of full size; a machine reads whole groups, so not too many.
GROUP_BYTES = 256 * 1024 * 1024
_LOG_SECONDS = 10.0
_MAX_SHOWN = 5


class MachineShard(NamedTuple):
    """The share of the groups that one of several machines encodes: number `index` of `count`, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "MachineShard":
        """The shard that a text such as "3/8" names; raises ValueError where it names none."""
        index, _, count = text.partition("/")
        if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise ValueError(f"shard={text!r} is not one of n shards; use 1/8 for the first of eight")


class Group(NamedTuple):
    """Neighbouring sources of a stream.

    place: the number of the stream, and the numbers of the first source and the one after the last there.
    """

    number: int
    place: tuple[int, int, int]
    split: Split | None
    sources: InputSources


class GroupRecord(NamedTuple):
    """A group whose parts are all there; skipped: its bad rows, as `SkippedRows.record` gives them."""

    num_parts: int
    num_documents: int
    skipped: dict[str, list]


def make_groups(streams: Sequence[Stream]) -> list[Group]:
    """All groups, in the order of their documents; the sources' sizes alone decide which belong together."""
    places = [
        (number, start, stop)
        for number, stream in enumerate(streams)
        for start, stop in itertools.pairwise(_find_starts(stream.sources.sources))
    ]
    return [group_at(streams, number, place) for number, place in enumerate(places)]


def group_at(streams: Sequence[Stream], number: int, place: tuple[int, int, int]) -> Group:
    """The group with this number and place."""
    stream, start, stop = place
    split, sources = streams[stream]
    return Group(number, place, split, sources._replace(sources=sources.sources[start:stop]))


def _find_starts(sources: Sequence[InputSource]) -> list[int]:
    """The numbers of the sources at which groups begin, and the number of all sources."""
    starts, size = [0], 0
    for number, source in enumerate(sources[:-1], 1):
        size += source.num_bytes
        if size >= GROUP_BYTES:
            starts.append(number)
            size = 0
    return [*starts, len(sources)]


def groups_of_shard(groups: Sequence[Group], shard: MachineShard) -> list[Group]:
    """The groups that one of several machines encodes: neighbours, about as many bytes for each machine."""
    indices = _shard_indices(groups, shard.count)
    return [group for group, index in zip(groups, indices, strict=True) if index == shard.index]


def keep_shard_count(work: WorkDirectory, shard: MachineShard) -> None:
    """Keeps the number of machines; raises ValueError where others were started with another one."""
    count = read_json(work.shard_count)
    if count is None:
        write_json(work.shard_count, shard.count)
    elif count != shard.count:
        raise ValueError(
            f"shard={shard.index}/{shard.count} is one of {shard.count}, and {work.directory} was begun with "
            f"{count} shards; use {count}, or delete that directory"
        )


def require_shards(work: WorkDirectory, groups: Sequence[Group]) -> None:
    """Raises ValueError, naming them, where shards are not encoded."""
    count = read_json(work.shard_count)
    if count is None:
        raise ValueError(
            f"{work.directory} holds no shards; run `flaxmill data prepare` with --shard 1/N to N/N, on "
            "N machines, first, with the same other flags"
        )
    indices = _shard_indices(groups, count)
    missing = {
        index for group, index in zip(groups, indices, strict=True) if read_record(work, group.number) is None
    }
    if missing:
        named = shorten([f"{index}/{count}" for index in sorted(missing)], _MAX_SHOWN)
        raise ValueError(
            f"not all shards are done, {named} {'is' if len(missing) == 1 else 'are'} missing; run `flaxmill "
            "data prepare` with each of these as --shard"
        )


def _shard_indices(groups: Sequence[Group], count: int) -> list[int]:
    """The index of the shard of each group, from 1."""
    sizes = [max(1, group.sources.num_bytes) for group in groups]
    ends = list(itertools.accumulate(sizes))
    middles = (end - size / 2 for end, size in zip(ends, sizes, strict=True))
    return [int(count * middle / ends[-1]) + 1 for middle in middles]


def read_record(work: WorkDirectory, number: int) -> GroupRecord | None:
    """The record of a group; None: it is not encoded yet."""
    values = read_json(work.group(number))
    return None if values is None else GroupRecord(**values)


def encode_groups(
    groups: Sequence[Group],
    work: WorkDirectory,
    run: Callable[[Iterator[PartTask]], Iterator[object]],
    log: Log,
) -> None:
    """Encodes the groups that have no record yet.

    Args:
      run: encodes parts and gives a value for each, in their order.

    Raises what reading and encoding raise; the groups and parts that are done stay.
    """
    progress = _Progress(groups, work, log)
    for _ in run(progress.tasks()):
        progress.count()


class _Progress:
    """Reads groups as parts, and records a group once all of its parts are encoded."""

    def __init__(self, groups: Sequence[Group], work: WorkDirectory, log: Log):
        self._groups = groups
        self._work = work
        self._log = log
        self._logged = time.monotonic()
        self._num_characters = 0
        # What has been read and not been recorded: (group, record), in order.
        self._read: list[tuple[int, GroupRecord]] = []
        self._num_encoded = 0  # parts since the last recorded group

    def tasks(self) -> Iterator[PartTask]:
        for group in self._groups:
            if read_record(self._work, group.number) is not None:
                continue
            self._work.part(group.number, 0).parent.mkdir(exist_ok=True)
            num_parts = num_documents = 0
            for documents in cut_into_parts(group.sources.read()):
                yield PartTask(self._work.part(group.number, num_parts), documents)
                num_parts += 1
                num_documents += len(documents)
                self._tell(documents)
            self._read.append((group.number, GroupRecord(num_parts, num_documents, _skipped(group))))
            self._record()

    def count(self) -> None:
        """Takes note of one more encoded part."""
        self._num_encoded += 1
        self._record()

    def _record(self) -> None:
        while self._read and self._num_encoded >= self._read[0][1].num_parts:
            number, record = self._read.pop(0)
            self._num_encoded -= record.num_parts
            write_json(self._work.group(number), record._asdict())

    def _tell(self, documents: list) -> None:
        self._num_characters += sum(map(size_of, documents))
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            total = sum(group.sources.num_bytes for group in self._groups)
            self._log(f"prepared {self._num_characters / 1e6:,.0f} of about {total / 1e6:,.0f} MB")


def _skipped(group: Group) -> dict[str, list]:
    skipped = group.sources.skipped
    names = {source.name for source in group.sources.sources}
    return {} if skipped is None else {name: at for name, at in skipped.record().items() if name in names}

"""The files and splits of datasets that data.files or data.valid_files name, each read once, in order."""

import itertools
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.files.archives import refuse_binary
from flaxmill.data.files.bad_rows import SkippedRows
from flaxmill.data.files.local_paths import match_files
from flaxmill.data.files.remote_paths import RemoteFile, look_again
from flaxmill.data.files.saved_datasets import find_saved
from flaxmill.data.files.specs import is_local
from flaxmill.data.messages import shorten

_MAX_SHOWN = 3

Log = Callable[[str], None]


class InputSource(NamedTuple):
    """A file, here or in a remote store, a split of a TFDS dataset, or a part of the embedded corpus.

    inventory: entries that tell whether it changed, without reading it.
    identity: equal for two names of one source.
    read: starts to read its documents or rows.
    """

    name: str
    inventory: list[list]
    num_bytes: int
    identity: Hashable
    read: Callable[[], Iterator[Any]]
    path: Path | None = None


class InputSources(NamedTuple):
    """Sources under the name of their field: "data.files=a.txt, b.txt".

    skipped: the bad rows that were skipped when each source was last read; None: a bad row is an error.
    """

    name: str
    sources: tuple[InputSource, ...]
    skipped: SkippedRows | None = None

    @property
    def inventory(self) -> list[list]:
        return [entry for source in self.sources for entry in source.inventory]

    @property
    def num_bytes(self) -> int:
        return sum(source.num_bytes for source in self.sources)

    def read(self) -> Iterator[Any]:
        """The documents or rows of all, one source after another."""
        return itertools.chain.from_iterable(source.read() for source in self.sources)


def find_files(patterns: Sequence[str], field: str, accepted: Collection[str] = ()) -> list[Path]:
    """Absolute paths that the patterns match, in order.

    Args:
      accepted: suffixes of binary files that the caller reads.

    Raises ValueError, naming the field, where a pattern matches no file, or a file that cannot hold text.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = matches_of(pattern, field)
        for match in matches:
            if os.path.isdir(match):
                if len(matches) > 1:
                    continue
                raise ValueError(f"{field}={match!r} is a directory; give its files, as in {match}/*.txt")
            if not os.path.isfile(match):
                raise ValueError(
                    f"{field}={match!r} is a pipe or a device, which cannot be read twice; save it to a file"
                )
            refuse_binary(Path(match), field, accepted)
            found[Path(match).absolute()] = None
    if not found:
        raise ValueError(f"{field}={list(patterns)!r} match directories only; give text files")
    return list(found)


def refuse_missing(specs: Sequence[str], field: str) -> None:
    """Raises ValueError, naming the field, where a spec names files of this machine and none is there; reads
    none, so that it takes a moment."""
    for spec in specs:
        if is_local(spec) and find_saved(spec) is None:
            matches_of(spec, field)


def matches_of(pattern: str, field: str) -> list[str]:
    """The paths that a pattern matches. Raises ValueError, naming the field, where there are none."""
    matches = match_files(pattern)
    if not matches:
        raise ValueError(f"{field}={pattern!r} names no file; give an existing text file or glob")
    return matches


def make_file_source(
    path: Path,
    field: str,
    read: Callable[[], Iterator[Any]],
    *,
    read_as: Sequence[Any] = (),
    expansion: int = 1,
) -> InputSource:
    """The source of a file.

    Args:
      read_as: settings that decide what `read` makes of the file and that a dataset does not store otherwise.
      expansion: bytes of text for a byte of the file.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{field} cannot be read ({error}); check its permissions") from None
    read = _unless_changed(read, str(path), lambda: _size_and_time(path), (stat.st_size, stat.st_mtime_ns))
    inventory = [str(path), stat.st_size, stat.st_mtime_ns, *read_as]
    # Some network file systems give files no numbers.
    identity = (stat.st_dev, stat.st_ino) if stat.st_ino else path
    return InputSource(str(path), [inventory], stat.st_size * expansion, identity, read, path)


def make_remote_source(
    file: RemoteFile, read: Callable[[], Iterator[Any]], *, read_as: Sequence[Any] = (), expansion: int = 1
) -> InputSource:
    """The source of a file in a remote store; see `make_file_source`."""
    name = str(file.path)
    read = _unless_changed(read, name, lambda: look_again(file.path), file)
    inventory = [name, file.num_bytes, file.version, *read_as]
    return InputSource(name, [inventory], file.num_bytes * expansion, name, read)


def _unless_changed(
    read: Callable[[], Iterator[Any]], name: str, look: Callable[[], Any], before: Any
) -> Callable[[], Iterator[Any]]:
    """Reads, and raises ValueError at the end where a look at the file finds another than `before`."""

    def checked() -> Iterator[Any]:
        yield from read()
        if look() != before:
            raise ValueError(
                f"{name} changed while it was read; start again when nothing writes to it any more"
            )

    return checked


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def read_once(name: str, sources: Iterable[InputSource], log: Log) -> InputSources:
    """The sources, each once: second names for a source, which links give, are left out and logged."""
    # Linux's names are bytes; names that are not UTF-8 could not be printed or stored.
    name = name.encode("utf-8", "backslashreplace").decode()
    found: dict[Hashable, InputSource] = {}
    again: list[tuple[str, str]] = []
    for source in sources:
        first = found.setdefault(source.identity, source)
        if first.name != source.name:
            again.append((source.name, first.name))
    if again:
        log(f"{name}: {describe_pairs(again, 'is')} under another name, and read once")
    return InputSources(name, tuple(found.values()))


def describe_pairs(pairs: Sequence[tuple[str, str]], relation: str) -> str:
    """Text such as "b.txt is a.txt, d.txt is c.txt and 2 more"."""
    return shorten([f"{one} {relation} {other}" for one, other in pairs], _MAX_SHOWN)

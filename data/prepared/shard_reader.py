"""Reads the rows of a split from its shards, in any order and from any number of threads."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]  (a compiled module without stubs)
)

from flaxmill.data.prepared.shards import Shard

# Rows are read in random order, so reading ahead would be wasted.
_READER_OPTIONS = "readahead_buffer_size:0"
# Far below the usual limit of 1,024 files a process.
_MAX_OPEN_FILES = 256
# A disk gives the rows of a file in 0.2 ms. If a file takes longer than this, the next are read side by side.
_SLOW_SECONDS = 0.005
_FILES_AT_ONCE = 16


class ShardReader:
    """Random access to the rows of a split, from any number of threads at once.

    A file is opened when a row of it is first read. array_record's own data source starts a thread for every
    file of every batch, which takes ten times as long as the reading of a small batch from a disk. Here that
    is done only where a file takes long, as one in a remote store does.
    """

    def __init__(self, directory: Path, shards: Sequence[Shard]):
        self._paths = [str(directory / shard.file) for shard in shards]
        self._num_rows = [shard.num_rows for shard in shards]
        self._ends = np.cumsum([0, *(shard.num_rows for shard in shards)])
        self._open: OrderedDict[int, array_record_module.ArrayRecordReader] = OrderedDict()
        self._lock = threading.Lock()  # of the table of open files, and held for no longer than a look at it
        self._opening = [threading.Lock() for _ in shards]

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Records of these rows, in this order, read with one call per file.

        Raises:
          OSError: a file's checksum does not hold, or the file is gone.
        """
        records = np.empty(len(rows), object)
        shards = np.searchsorted(self._ends, rows, side="right") - 1

        def read_file(shard: int) -> None:
            places = np.flatnonzero(shards == shard)
            records[places] = self._read_file(shard, (rows[places] - self._ends[shard]).tolist())

        wanted = np.unique(shards).tolist()
        started = time.perf_counter()
        for number, shard in enumerate(wanted):
            if number and time.perf_counter() - started > number * _SLOW_SECONDS:
                _do_at_once(read_file, wanted[number:])
                break
            read_file(shard)
        return records.tolist()

    def close(self) -> None:
        """Closes all files, one that is being read after that; they open again when they are read."""
        with self._lock:
            self._open.clear()

    def _read_file(self, shard: int, positions: list[int]) -> list[bytes]:
        try:
            # Calls of one reader may overlap; it reads each row in a thread of array_record's own.
            return self._reader(shard).read(positions)
        except RuntimeError as error:  # from Riegeli, about a checksum or the system
            raise _unreadable(Path(self._paths[shard]), error) from error

    def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
        with self._opening[shard]:  # a file is opened once, and meanwhile others can be
            with self._lock:
                if (reader := self._open.get(shard)) is not None:
                    self._open.move_to_end(shard)
                    return reader
            reader = array_record_module.ArrayRecordReader(self._paths[shard], _READER_OPTIONS)
            if reader.num_records() != self._num_rows[shard]:
                raise RuntimeError(f"{reader.num_records()} rows and not {self._num_rows[shard]}")
            with self._lock:
                if len(self._open) == _MAX_OPEN_FILES:
                    # It closes when its last read ends: another thread may be reading.
                    self._open.popitem(last=False)
                self._open[shard] = reader
            return reader


def _do_at_once(read_file: Callable[[int], None], shards: Sequence[int]) -> None:
    """Call it for all shards in threads; raises what the first that failed raised."""
    with ThreadPoolExecutor(min(len(shards), _FILES_AT_ONCE), "shard") as threads:
        for _ in threads.map(read_file, shards):
            pass


def _unreadable(path: Path, error: RuntimeError) -> OSError:
    if not path.exists():
        return OSError(f"{path} is gone; the same command prepares it again")
    reason = " ".join(str(error).split())[:200]
    return OSError(f"{path} is damaged ({reason}); delete {path.parent} to have it prepared again")

"""The directory of an unfinished preparation: what is there need not be done again after a kill."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flaxmill.data.prepared.dataset import TOKENIZER
from flaxmill.data.tokenizer.settings import SETTINGS_FILE
from flaxmill.data.whole_files import write_whole_text

# Raise it when parts, fates or rows are made otherwise for the same settings.
_FORMAT = 1


class UnfinishedError(OSError):
    """A preparation ended before its end; the same command goes on where it ended."""


class WorkDirectory:
    """Where the pieces of a dataset are until it is whole:

    work.json                      what they are pieces of
    tokenizer.json                 the tokenizer, which is trained once
    parts/GROUP/PART.npz           encoded documents
    mistake.json                   what a worker on another machine found wrong
    shards.json                    how many machines encode them, where several do
    groups/GROUP.json              written when all parts of a group are there
    fates/GROUP/PART.npy           which of its documents go where
    rows/NAME.array_record, .json  the shards of the dataset, and what is in them
    found/START.npy                the held-out runs that training documents hold
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @classmethod
    def beside(cls, final: Path) -> "WorkDirectory":
        """The work directory of the dataset that will be `final`."""
        return cls(final.with_name(f".{final.name}.partial"))

    @property
    def tokenizer(self) -> Path:
        return self.directory / TOKENIZER

    @property
    def settings(self) -> Path:
        return self.directory / SETTINGS_FILE

    def part(self, group: int, number: int) -> Path:
        return self.directory / "parts" / f"{group:06d}" / f"{number:06d}.npz"

    def fates(self, group: int, number: int) -> Path:
        return self.directory / "fates" / f"{group:06d}" / f"{number:06d}.npy"

    def group(self, number: int) -> Path:
        return self.directory / "groups" / f"{number:06d}.json"

    def found_runs(self, start: int) -> Path:
        return self.directory / "found" / f"{start:012d}.npy"

    def rows(self, name: str) -> Path:
        return self.directory / "rows" / f"{name}.array_record"

    @property
    def mistake(self) -> Path:
        return self.directory / "mistake.json"

    @property
    def shard_count(self) -> Path:
        return self.directory / "shards.json"

    def begin(self, key: Mapping[str, Any]) -> None:
        """Makes the directory, and empties it if it holds pieces of something else.

        Args:
          key: what decides the pieces and is not in the directory's name.

        Raises ValueError where several machines made these pieces: their work is not thrown away.
        """
        wanted = {"format": _FORMAT, **json.loads(json.dumps(key))}
        file = self.directory / "work.json"
        found = read_json(file)
        if self.shard_count.is_file() and found not in (None, wanted):
            raise ValueError(
                f"{self.directory} was begun with {found} and not {wanted}; use the same versions on all "
                "machines, or delete it"
            )
        # Without the file nothing is in it yet, or another process is just making it.
        if found != wanted and (file.exists() or not self.directory.is_dir()):
            self.remove()
        for name in ("parts", "groups", "fates", "rows", "found"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        write_json(file, wanted)

    def remove(self) -> None:
        """Deletes all, or whatever else has the directory's name: at a pipe, `rmtree` waits for ever."""
        remove(self.directory)


def remove(path: Path) -> None:
    """Deletes a directory, a file or a pipe."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def read_json(path: Path) -> Any:
    """What the file holds; None where it is not there or is torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Writes it; the file appears whole or not at all."""
    write_whole_text(path, json.dumps(value) + "\n")


@contextlib.contextmanager
def cleared_after(work: WorkDirectory) -> Iterator[None]:
    """Deletes the pieces when they are a dataset, or when a mistake is found in what they were made of; they
    stay when the process is stopped, when the disk is full, and when several machines made them."""
    try:
        yield
    except ValueError:
        if not work.shard_count.is_file():
            work.remove()
        raise
    work.remove()

"""What is in the cache: prepared datasets and compiled programs, how large, and what of it is damaged."""

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from flaxmill.data.prepared.dataset import open_dataset
from flaxmill.data.prepared.manifest import MANIFEST, DamagedDatasetError
from flaxmill.train.caches import cache_directory, programs_directory
from flaxmill.train.doctor.findings import Finding, listed

CHECK = "cache"

MOST_SECONDS = 2.0
"""For reading compiled programs, which may be thousands."""
_PROGRAM = "-cache"  # how the files end that JAX keeps
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how they begin (RFC 8878, 3.1.1), unless zlib packed them


def check_cache() -> Iterator[Finding]:
    """Sizes; datasets whose files are not what they should be, and programs that JAX cannot read."""
    try:
        cache = cache_directory()
    except ValueError:
        return  # the check of disks says it
    yield from _check_datasets(cache / "data")
    yield from _check_programs(programs_directory(cache))


def _check_datasets(directory: Path) -> Iterator[Finding]:
    whole = [path.parent for path in sorted(directory.glob(f"*/{MANIFEST}"))]
    started = [path for path in sorted(directory.glob(".*.partial")) if path.is_dir()]
    for dataset in whole:
        try:
            open_dataset(dataset).close()
        except DamagedDatasetError as error:
            fix = f"remove {dataset}; the next run prepares it again"
            yield Finding(CHECK, "wrong", str(error).partition("; ")[0], fix)
        except ValueError as error:
            yield Finding(CHECK, "remark", str(error).partition("; ")[0], f"remove {dataset}")
    yield Finding(CHECK, "ok", f"{_count(len(whole), 'dataset')}, {_megabytes(directory)}: {directory}")
    if started:
        names = listed([path.name for path in started], most=3)
        what = f"{_count(len(started), 'preparation')} unfinished in {directory}: {names}"
        yield Finding(CHECK, "remark", what, "the same command goes on with it; else remove it")


def _check_programs(directory: Path) -> Iterator[Finding]:
    files = sorted(directory.rglob(f"*{_PROGRAM}"))
    num_read, bad = _unreadable(files)
    said = f"{_count(len(files), 'compiled program')}, {_megabytes(directory)}: {directory}"
    if bad:
        what = f"{_count(len(bad), 'compiled program')} damaged, and compiled anew at every start: {bad[0]}"
        folders = sorted({str(path.parent) for path in bad})
        yield Finding(CHECK, "wrong", what, f"remove {listed(folders, most=3)}")
    looked = "" if num_read == len(files) else f"; the first {num_read} were read, in {MOST_SECONDS:.0f} s"
    yield Finding(CHECK, "ok", said + looked)


def _unreadable(files: list[Path]) -> tuple[int, list[Path]]:
    """How many files were read in the time there is, and which of them are cut short or changed."""
    bad: list[Path] = []
    started = time.monotonic()
    for number, path in enumerate(files):
        if time.monotonic() - started > MOST_SECONDS:
            return number, bad
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process has cleared it away
            continue
        if not _is_whole(content):
            bad.append(path)
    return len(files), bad


def _is_whole(content: bytes) -> bool:
    """Whether a program can be unpacked. JAX packs with zstandard where that is installed, else with zlib,
    and does not read what it would pack otherwise."""
    if not content.startswith(_ZSTANDARD):
        try:
            return bool(zlib.decompress(content))
        except zlib.error:
            return False
    try:
        import zstandard
    except ImportError:
        return True  # as far as can be told here
    try:
        return bool(zstandard.ZstdDecompressor().decompress(content))
    except zstandard.ZstdError:
        return False


def _megabytes(directory: Path) -> str:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # another process has cleared it away
                continue
    return f"{total / 1e6:.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

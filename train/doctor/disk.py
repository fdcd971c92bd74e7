"""Whether runs, prepared data and compiled programs have a place that can hold them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.train.caches import cache_directory, programs_directory
from flaxmill.train.doctor.file_systems import (
    Mount,
    Room,
    mount_of,
    nearest_directory,
    reason_of,
    room_at,
    try_operations,
)
from flaxmill.train.doctor.findings import Finding, with_fix
from flaxmill.train.metrics.progress import short_number
from flaxmill.train.run.directory import RUNS

CHECK = "disk"

LEAST_BYTES, LEAST_FILES = 20_000_000, 100
"""What `flaxmill train gpt_tiny` writes: 11 MB into the cache, 8 MB into its run, 62 files in all."""
FEW_BYTES, FEW_FILES = 10 * GIB, 10_000
"""Below this a run of GPT-2's 124M parameters soon fills a disk: 1.5 GB a checkpoint."""
_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "fuse.sshfs"}
_LOCAL_LOCKS = {"nolock", "localflock", "local_lock=all", "local_lock=flock"}
_IN_MEMORY = {"tmpfs", "ramfs"}


class Place(NamedTuple):
    """A directory that `flaxmill train` writes into, which need not be there yet.

    Attributes:
      option: how to choose another place.
      is_kept: what is lost there cannot be made again.
    """

    name: str
    path: Path
    option: str
    is_kept: bool = False


class Probes(NamedTuple):
    """How a directory that is there is looked at."""

    mount: Callable[[Path], Mount | None] = mount_of
    room: Callable[[Path], Room] = room_at
    operations: Callable[[Path], str | None] = try_operations


PROBES = Probes()


def check_disk(runs: Path = RUNS, probes: Probes = PROBES) -> Iterator[Finding]:
    """Try each place: free space and files, writing, renaming and locking."""
    yield from _check_place(Place("runs", runs.absolute(), "give --run-dir elsewhere", True), probes)
    try:
        cache = cache_directory()
    except ValueError as error:
        yield with_fix(CHECK, "wrong", str(error))
        return
    yield from _check_place(Place("prepared data", cache, "set FLAXMILL_CACHE to a place elsewhere"), probes)
    programs = programs_directory(cache)
    if not programs.is_relative_to(cache):
        option = "set JAX_COMPILATION_CACHE_DIR to a place elsewhere, or unset it"
        yield from _check_place(Place("compiled programs", programs, option), probes)


def _check_place(place: Place, probes: Probes) -> Iterator[Finding]:
    """Whether it can be used; then what its kind of file system means."""
    try:
        directory = nearest_directory(place.path)
        mount, room = probes.mount(directory), probes.room(directory)
        problem = probes.operations(directory) if directory.is_dir() else f"{directory} is a file"
    except OSError as error:
        yield Finding(CHECK, "wrong", f"{place.name}: {place.path}: {reason_of(error)}", place.option)
        return
    files = "" if room.num_files is None else f" and {short_number(room.num_files)} files"
    kind = mount.kind if mount else "an unknown file system"
    said = f"{place.name}: {place.path}, {kind}, room for {room.num_bytes / GIB:.1f} GiB{files}"
    if problem:
        yield Finding(CHECK, "wrong", f"{said}: {problem}", place.option)
    elif _has_less(room, LEAST_BYTES, LEAST_FILES):
        what = f"{said}: less than the smallest example writes"
        yield Finding(CHECK, "wrong", what, f"free some, or {place.option}")
    elif _has_less(room, FEW_BYTES, FEW_FILES):
        what = f"{said}: it fills up soon, with 1.5 GB for each checkpoint of GPT-2's size"
        yield Finding(CHECK, "remark", what, f"free some, or {place.option}")
    else:
        yield Finding(CHECK, "ok", said)
    yield from _kind_of_place(place, mount)


def _has_less(room: Room, num_bytes: int, num_files: int) -> bool:
    return room.num_bytes < num_bytes or (room.num_files is not None and room.num_files < num_files)


def _kind_of_place(place: Place, mount: Mount | None) -> Iterator[Finding]:
    """What the kind of a file system means for a run."""
    if mount is None:
        return
    if place.is_kept and mount.kind in _IN_MEMORY:
        what = f"{place.name}: {place.path} is in memory ({mount.kind}): runs are lost when the machine stops"
        yield Finding(CHECK, "remark", what, place.option)
    if place.is_kept and mount.kind == "overlay":
        what = f"{place.name}: {place.path} is in a container's own layer, and lost with the container"
        yield Finding(CHECK, "remark", what, "mount a volume, and give --run-dir in it")
    if mount.kind in _SHARED and (local := sorted(mount.options & _LOCAL_LOCKS)):
        what = f"{place.name}: {place.path} ({mount.kind}) is mounted with {', '.join(local)}: "
        what += "two machines could train in one run directory"
        yield Finding(CHECK, "remark", what, "mount it with locks, or start each run on one machine alone")

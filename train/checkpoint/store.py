"""Orbax and what it leaves on disk: no other module calls it or reads its errors."""

import errno
import logging
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from flaxmill.model.params import LeafPath, unflatten
from flaxmill.train.checkpoint.manifest import named_leaves
from flaxmill.train.failures import CheckpointError
from flaxmill.train.plain_paths import plain, with_real_names

PARAMS = "params"  # the part of a checkpoint that can be loaded by itself
TRAINING = "training"  # everything else: optimizer state, step, counters
COMMIT_FILE = "_CHECKPOINT_METADATA"  # Orbax writes it, and the manifest in it, before the commit

_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # how TensorStore tells what the system said
_QUOTED = re.compile(r'"(/[^"]+)"')
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def part_of(name: str) -> tuple[str, str]:
    """The part that stores an array, and the array's name there: params/a/b -> params, a.b."""
    first, _, rest = name.partition("/")
    return (PARAMS, rest.replace("/", ".")) if first == PARAMS else (TRAINING, name.replace("/", "."))


def start_save(path: Path, leaves: Mapping[LeafPath, jax.Array], manifest: dict[str, Any]) -> Any:
    """Copy the arrays and begin to write them; the returned object's `result()` waits for the commit."""
    from orbax.checkpoint import v1  # 0.3 s that listing and refusing need not pay

    context = v1.Context()
    # Weights hardly compress (by 8%), and compressing costs the host more than writing and reading them.
    context.array.saving.use_compression = False
    with context:
        return v1.save_checkpointables_async(
            str(plain(path)), _parts(leaves), custom_metadata=manifest, overwrite=True
        )


def load_leaves(
    path: Path, wanted: Mapping[LeafPath, Any], *, partial: bool = False
) -> dict[LeafPath, jax.Array]:
    """Read arrays onto the devices that the ShapeDtypeStructs `wanted` name.

    `partial` allows the checkpoint to hold more arrays of a part than are wanted.
    Each process reads its own shards without waiting for the others, so a process that fails does not keep
    the others from ending.
    """
    from orbax.checkpoint import v1

    context = v1.Context()
    context.pytree.loading.partial_load = partial
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        parts = v1.load_checkpointables(str(plain(path)), _parts(wanted))
    loaded = {**named_leaves({PARAMS: parts.get(PARAMS, {})}), **named_leaves(parts.get(TRAINING, {}))}
    return {name: loaded[name] for name in wanted}


def _parts(leaves: Mapping[LeafPath, Any]) -> dict[str, Any]:
    tree = unflatten(leaves)
    parts = {PARAMS: tree.pop(PARAMS, {}), TRAINING: tree}
    return {name: part for name, part in parts.items() if part}


def save_failure(error: BaseException, path: Path) -> Exception:
    """What to raise, in one line, when a save to `path` failed: an OSError where the system refused."""
    advice = "nothing older was deleted"
    failure = system_failure(error)
    if failure is None:
        return CheckpointError(f"{path} could not be saved: {in_words(error)}; {advice}")
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        advice += ", so make room and start again: the run continues from there"
    return _with_number(f"{path} could not be saved: {failure}; {advice}", failure.errno)


def system_failure(error: BaseException) -> OSError | None:
    """The operating system's refusal that caused the error, if one did; an absent file does not count."""
    cause = root_cause(error)
    text = with_real_names(str(cause))
    if isinstance(cause, OSError):
        number = cause.errno
        file = cause.filename and with_real_names(str(cause.filename))
    else:
        found = _OS_ERROR.search(text)
        number = int(found[1]) if found else None
        quoted = _QUOTED.search(text)
        file = quoted[1] if quoted else None
        if number is None:
            return None
    if number in _ABSENT:
        return None
    said = os.strerror(number) if number else in_words(cause)
    return _with_number(f"{said}: {file}" if file else said, number)


def root_cause(error: BaseException) -> BaseException:
    """The first in a chain of errors; Orbax hides it behind an error about handlers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def in_words(error: BaseException) -> str:
    """The first cause in one line."""
    cause = root_cause(error)
    return " ".join(with_real_names(str(cause)).split())[:400] or type(cause).__name__


def _with_number(text: str, number: int | None) -> OSError:
    failure = OSError(text)  # with two arguments its text would begin with "[Errno 28]"
    failure.errno = number
    return failure


def quiet_orbax() -> None:
    """Keep Orbax off the terminal: failures are raised, in one line, and need not be logged with a trace."""
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_not_orbax)  # adding it again changes nothing
    # A load that fails leaves these coroutines unstarted; Python would report them at some later time.
    for name in (r"Store\._get_array_metadatas", r"PyTreeHandler\._background_load"):
        warnings.filterwarnings("ignore", rf"coroutine '{name}' was never awaited")


def _is_not_orbax(record: logging.LogRecord) -> bool:
    if record.name == "asyncio":  # it reports errors of tasks that nobody waited for any more
        return "orbax" not in record.getMessage()
    return "orbax" not in record.pathname

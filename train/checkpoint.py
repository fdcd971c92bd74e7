"""Checkpoints: atomic, asynchronous, checked against digests, restorable onto any mesh."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax

from flaxmill.train.failures import CheckpointError
from flaxmill.train.manifest import (
    LeafPath,
    check_fits,
    find_damage,
    make_manifest,
    named_leaves,
    nested,
    read_manifest,
)

State = TypeVar("State")

PARAMS = "params"  # the part of a checkpoint that can be loaded by itself
TRAINING = "training"  # everything else: optimizer state, step, counters
COMMIT_FILE = "_CHECKPOINT_METADATA"  # Orbax writes it, and the manifest in it, before the commit
DISCARDED = ".discarded"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Steps between saves; the last step is saved too."""
    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this; None: only the newest."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{name}={value} must be at least 1")


class Checkpoints:
    """The checkpoints of one run, DIRECTORY/STEP each.

    Use it as a context manager: leaving waits for the save in progress, which needs the interpreter alive.
    All processes of a job call `save` and `restore` together. Nothing is created before the first save.
    """

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self.directory = Path(directory).absolute()
        self._config = config
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._written: set[int] = set()
        _quiet_orbax()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (CheckpointError, OSError) as closing:
            if error is None:
                raise
            error.add_note(str(closing))  # what stopped the run matters more

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending; what a crash left half written does not count."""
        if not self.directory.is_dir():
            return []
        committed = (path.parent.name for path in self.directory.glob(f"*/{COMMIT_FILE}"))
        return sorted(int(name) for name in committed if name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Start writing `state`, a pytree of arrays, with JSON-able `metadata`; returns once it is copied.

        A step that this object wrote already is left alone. The state may be donated afterwards.

        Raises:
          CheckpointError, OSError: this save could not start, or the one before failed.
        """
        self.wait()
        if step in self._written:
            return
        _make_writable(self.directory)
        leaves = named_leaves(state)
        manifest = make_manifest(leaves, metadata)
        response = _readably(lambda: _start_save(self._path(step), leaves, manifest), self._path(step))
        self._pending = step, self._writer.submit(self._finish, response, self._path(step))

    def wait(self) -> None:
        """Return when the save in progress has committed.

        Raises:
          CheckpointError, OSError: it failed.
        """
        if self._pending is not None:
            (step, saving), self._pending = self._pending, None
            saving.result()
            self._written.add(step)

    def close(self) -> None:
        """Wait and stop the writing thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def restore(self, step: int, abstract_state: State) -> tuple[State, dict[str, Any]]:
        """Load the state saved at `step`, and its metadata.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings that the arrays shall have, on any mesh.

        Raises:
          CheckpointError: it is missing, damaged, or its leaves are not those of `abstract_state`.
        """
        manifest = self._manifest(step)
        return self._load(step, manifest["arrays"], abstract_state), manifest["metadata"]

    def metadata(self, step: int) -> dict[str, Any]:
        """What was given to `save` beside the state; raises as `restore` does."""
        return self._manifest(step)["metadata"]

    def restore_params(self, step: int, abstract_params: State) -> State:
        """Load the params alone; raises as `restore` does."""
        arrays = self._manifest(step)["arrays"]
        arrays = {name: array for name, array in arrays.items() if name.startswith(f"{PARAMS}/")}
        return self._load(step, arrays, {PARAMS: abstract_params})[PARAMS]

    def _load(self, step: int, arrays: Mapping[str, Any], abstract: State) -> State:
        wanted = named_leaves(abstract)
        check_fits(arrays, wanted, str(self._path(step)))
        leaves = _readably(
            lambda: _load_leaves(self._path(step), wanted), self._path(step), self._advice(step)
        )
        if damaged := find_damage(arrays, leaves):
            raise CheckpointError(
                f"{self._path(step)} is damaged: {', '.join(damaged[:3])} "
                f"{f'and {len(damaged) - 3} more ' if len(damaged) > 3 else ''}"
                f"did not load as saved (digest differs); {self._advice(step)}"
            )
        return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in wanted])

    def _manifest(self, step: int) -> dict[str, Any]:
        if step not in self.steps():
            raise CheckpointError(
                f"{self._path(step)} is not a checkpoint; there are {self.steps() or 'none'}"
            )
        try:
            stored = json.loads((self._path(step) / COMMIT_FILE).read_text())
            return read_manifest(stored.get("custom_metadata"), str(self._path(step)))
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._advice(step)}") from error
        except ValueError as error:  # neither JSON nor UTF-8
            raise CheckpointError(
                f"{self._path(step)} is damaged: {COMMIT_FILE} is unreadable ({error}); {self._advice(step)}"
            ) from error

    def _advice(self, step: int) -> str:
        earlier = [other for other in self.steps() if other < step]
        if earlier:
            return f"delete that directory to continue from step {earlier[-1]}"
        return "there is no earlier one: put a copy back, or start in a new run directory"

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _finish(self, response: Any, path: Path) -> None:
        """On the writing thread: wait for the commit, and only then drop what is no longer kept."""
        _readably(response.result, path)
        if jax.process_index() == 0:
            self._discard()

    def _discard(self) -> None:
        steps, every = self.steps(), self._config.keep_every
        kept = set(steps[-self._config.keep_last :]) | {s for s in steps if every and s % every == 0}
        for step in set(steps) - kept:
            # Renamed first, so that a crash between two files leaves nothing that looks whole.
            self._path(step).rename(self.directory / f"{step}{DISCARDED}")
        # No save is in progress here: a temporary is what a crash left behind.
        for left in (*self.directory.glob(f"*{DISCARDED}"), *self.directory.glob("*.orbax-checkpoint-tmp*")):
            shutil.rmtree(left, ignore_errors=True)


def _start_save(path: Path, leaves: Mapping[LeafPath, jax.Array], manifest: dict[str, Any]) -> Any:
    from orbax.checkpoint import v1  # 0.3 s that listing and refusing need not pay

    # Whatever stands at this step comes from a trajectory that was abandoned.
    return v1.save_checkpointables_async(str(path), _parts(leaves), custom_metadata=manifest, overwrite=True)


def _load_leaves(path: Path, wanted: Mapping[LeafPath, Any]) -> dict[LeafPath, jax.Array]:
    from orbax.checkpoint import v1

    parts = v1.load_checkpointables(str(path), _parts(wanted))
    loaded = {**named_leaves({PARAMS: parts.get(PARAMS, {})}), **named_leaves(parts.get(TRAINING, {}))}
    return {name: loaded[name] for name in wanted}


def _parts(leaves: Mapping[LeafPath, Any]) -> dict[str, Any]:
    tree = nested(leaves)
    parts = {PARAMS: tree.pop(PARAMS, {}), TRAINING: tree}
    return {name: part for name, part in parts.items() if part}


Result = TypeVar("Result")


def _readably(call: Callable[[], Result], path: Path, advice: str = "nothing older was deleted") -> Result:
    """Run an Orbax call; of its chain of errors raise the first cause, in one line."""
    try:
        return call()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = f"{path}: {' '.join(str(cause).split())[:400] or type(cause).__name__}; {advice}"
        raise (OSError if isinstance(cause, OSError) else CheckpointError)(text) from error


def _make_writable(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(
            f"checkpoints cannot be written to {directory}; change its permissions or run_dir"
        )


def _quiet_orbax() -> None:
    """Keep Orbax's reports of what it is doing off the terminal; its errors stay."""
    logging.getLogger("absl").addFilter(_is_not_chatter)  # adding the same function again changes nothing


def _is_not_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname

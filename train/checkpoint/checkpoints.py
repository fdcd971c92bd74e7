"""Checkpoints: atomic, asynchronous, checked against digests, restorable onto any mesh."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax

from flaxmill.sharding.processes.coordination import agree_on, any_process, is_main
from flaxmill.train.checkpoint.agreement import refuse_unequal, together
from flaxmill.train.checkpoint.config import CheckpointConfig, choose_kept
from flaxmill.train.checkpoint.damage import load_manifest
from flaxmill.train.checkpoint.directory import DAMAGED, clear, drop, find_steps, make_writable, set_aside
from flaxmill.train.checkpoint.manifest import DefectError, make_manifest, named_leaves
from flaxmill.train.checkpoint.store import quiet_orbax, save_failure, start_save
from flaxmill.train.checkpoint.stored import StoredCheckpoint
from flaxmill.train.failures import CheckpointError, DamagedCheckpointError

Result = TypeVar("Result")


class Checkpoints:
    """The checkpoints of one run, DIRECTORY/STEP each.

    Use it as a context manager: leaving waits for the save in progress, which needs the interpreter alive.
    If an error ends one of many processes, leaving does not wait.
    All processes of a job call `save` and the methods that read together, and what one of them cannot read
    fails in all. Nothing is created before the first save. With `read_only` nothing is changed: a run that is
    still training may be read.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, *, read_only: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self._config = config
        self._read_only = read_only
        self.best_step: int | None = None
        """The checkpoint of this step is kept, however old it is."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._written: set[int] = set()
        quiet_orbax()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and jax.process_count() > 1:
            # No save commits without the other processes, and they are not told yet.
            self._writer.shutdown(wait=False)
            return
        try:
            self.close()
        except (CheckpointError, OSError) as closing:
            if error is None:
                raise
            error.add_note(str(closing))  # what stopped the run matters more

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, damaged ones too, ascending."""
        return find_steps(self.directory)

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps(), default=None)

    @property
    def saving(self) -> bool:
        """Whether a save is still being written."""
        return self._pending is not None and not self._pending[1].done()

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Start writing `state`, a pytree of arrays, with JSON-able `metadata`; returns once it is copied.

        A step that this object wrote already is left alone. The state may be donated afterwards.

        Raises:
          CheckpointError, OSError: this save could not start, or the one before failed, or processes hold
            copies of an array that differ.
        """
        assert not self._read_only, "opened for reading"
        self.wait()
        if step in self._written:
            return
        path = self._path(step)
        leaves = named_leaves(state)
        manifest = make_manifest(leaves, metadata)
        refuse_unequal(path, manifest["flaxmill"]["arrays"])
        if is_main():
            make_writable(self.directory)
            # A checkpoint that is already at this step belongs to a trajectory that was abandoned.
            drop(self.directory, {step} if path.exists() else set())
        try:
            response = start_save(path, leaves, manifest)
        except Exception as error:
            raise save_failure(error, path) from error
        self._pending = step, self._writer.submit(self._finish, response, path)

    def wait(self) -> None:
        """Return when the save in progress has committed.

        Raises:
          CheckpointError, OSError: it failed.
        """
        if self._pending is not None:
            (step, saving), self._pending = self._pending, None
            saving.result()
            self._written.add(step)

    def abandon_after(self, step: int) -> None:
        """Delete checkpoints after `step`: the run continues from there differently."""
        self.wait()
        left = {other for other in self._agreed_steps() if other > step}
        if is_main():
            drop(self.directory, left)
        self._written -= left
        any_process(False)  # nobody looks for steps before they are gone

    def raise_if_failed(self) -> None:
        """Raise what `wait` would, if the save in progress has ended by now; never blocks."""
        if not self.saving:
            self.wait()

    def close(self) -> None:
        """Wait and stop the writing thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def load_newest(
        self,
        load: Callable[[StoredCheckpoint], Result],
        say: Callable[[str], None],
        only: Callable[[int], bool] | None = None,
    ) -> Result | None:
        """What `load` makes of the newest checkpoint that is whole; None if there is none at all.

        Damaged ones are passed over, reported to `say` and renamed to STEP.damaged; none is deleted.

        Args:
          only: which steps count; None: all.

        Raises:
          DamagedCheckpointError: none is whole, or `config.fallback` is off and the newest is not.
        """
        if is_main() and not self._read_only and not self.saving:
            clear(self.directory)
        damaged: dict[int, DamagedCheckpointError] = {}
        steps = [step for step in self._agreed_steps() if only is None or only(step)]
        while left := [step for step in steps if step not in damaged]:
            step = left[-1]
            try:
                loaded = load(self.open(step))
            except DamagedCheckpointError as error:
                if not self._config.fallback:
                    raise
                # A new error: the traceback of the old one would keep alive what was loaded.
                damaged[step] = DamagedCheckpointError(error.damage, error.advice)
            else:
                self._pass_over(damaged, step, say)
                return loaded
        if len(damaged) == 1:
            raise next(iter(damaged.values()))
        if damaged:
            each = "; ".join(error.damage for _, error in sorted(damaged.items(), reverse=True))
            advice = "none is whole: put a copy back, or start in a new run directory"
            raise DamagedCheckpointError(each, advice)
        return None

    def open(self, step: int) -> StoredCheckpoint:
        """The checkpoint of `step`, once every process has read its manifest.

        Raises:
          DamagedCheckpointError: its manifest is not what was saved.
          CheckpointError: this step has no checkpoint, or a later version wrote it.
          OSError: the system refused to read it.
        """
        if step not in self._agreed_steps():
            raise CheckpointError(
                f"{self._path(step)} is not a checkpoint; there are {self.steps() or 'none'}"
            )
        path, advice = self._path(step), lambda: self._advice(step)
        with together(path, advice):
            try:
                manifest = load_manifest(path)
            except DefectError as defect:
                raise DamagedCheckpointError(f"{path} is damaged: {defect}", advice()) from None
        return StoredCheckpoint(step, path, manifest["arrays"], manifest["metadata"], advice)

    def _agreed_steps(self) -> list[int]:
        """The steps as process 0 sees them: a file system may show them to others late."""
        return json.loads(agree_on(json.dumps(self.steps())))

    def _pass_over(
        self, damaged: Mapping[int, DamagedCheckpointError], used: int, say: Callable[[str], None]
    ) -> None:
        """Set damaged checkpoints aside, and say so."""
        for step, error in sorted(damaged.items(), reverse=True):
            if not self._path(step).exists():
                continue  # a run that still trains, and is only read here, has dropped it meanwhile
            if self._read_only:
                end = f"step {used} is used instead"
            else:
                kept = set_aside(self._path(step), DAMAGED) if is_main() else None
                self._written.discard(step)
                end = f"going on from step {used}, with {step - used} to do again"
                end += f", and what is damaged is kept as {kept.name}" if kept else ""
            say(f"{error.damage}; {end}")
        any_process(False)  # nobody looks for steps before they are set aside

    def _advice(self, step: int) -> str:
        earlier = [other for other in self.steps() if other < step]
        if earlier:
            return f"move that directory away to use step {earlier[-1]}"
        return "there is no earlier one: put a copy back, or start in a new run directory"

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _finish(self, response: Any, path: Path) -> None:
        """On the writing thread: wait for the commit, and only then drop what is no longer kept."""
        try:
            response.result()
        except Exception as error:
            raise save_failure(error, path) from error
        if is_main():
            steps = self.steps()
            drop(self.directory, set(steps) - choose_kept(self._config, steps, self.best_step))

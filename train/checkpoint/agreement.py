"""All processes reach the same verdict on a checkpoint: none waits for others that took another branch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flaxmill.sharding.processes.coordination import any_process
from flaxmill.train.failures import CheckpointError, DamagedCheckpointError


@contextmanager
def together(path: Path, advice: Callable[[], str]) -> Iterator[None]:
    """Run a block in every process of the job; if it fails in one, raise an error in all.

    Damage in one process counts as damage in all, so that all go back to the same step. Any other failure
    ends them.

    Args:
      path: the checkpoint that is read.
      advice: what to do if it is damaged.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    is_damage = isinstance(error, DamagedCheckpointError)
    try:
        if any_process(error is not None and not is_damage):
            if error is None or is_damage:
                raise CheckpointError(f"{path}: another process of this job failed and says why")
            raise error
        if any_process(is_damage) and not is_damage:
            raise DamagedCheckpointError(f"{path} is damaged, as another process of this job found", advice())
        if error is not None:
            raise error
    finally:
        error = None  # a cycle with its traceback would keep alive what was loaded

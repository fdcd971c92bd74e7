"""All processes reach the same verdict on a checkpoint: none waits for others that took another branch."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flaxmill.sharding.processes.coordination import agree_on, any_process
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


def refuse_unequal(path: Path, arrays: Mapping[str, Any]) -> None:
    """Check, before a save, that all processes describe the arrays alike.

    Each has digested its own copy of what all hold, and all write parts of one copy: if the copies differ,
    what is written is nobody's.

    Raises:
      CheckpointError: in every process; a process that differs from process 0 says in which arrays.
    """
    own = [array["digest"] for array in arrays.values()]
    main = json.loads(agree_on(json.dumps(own)))
    differ = [name for name, here, there in zip(arrays, own, main, strict=True) if here != there]
    if any_process(bool(differ)):
        which = "another process has other arrays than process 0 and says which"
        if differ:
            which = f"{len(differ)} of {len(own)} arrays, such as {differ[0]}, are not as in process 0"
        raise CheckpointError(
            f"{path} is not saved: {which}; give all processes one kind of processor, as many cores and the "
            "same XLA_FLAGS, and start again: the run continues from its last checkpoint"
        )

"""One checkpoint of a run, opened: every process has read its manifest, once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from flaxmill.model.params import LeafPath
from flaxmill.train.checkpoint.agreement import together
from flaxmill.train.checkpoint.damage import (
    find_damaged_arrays,
    find_damaged_files,
    join_problems,
)
from flaxmill.train.checkpoint.fit import check_fits
from flaxmill.train.checkpoint.manifest import find_changed, join, named_leaves
from flaxmill.train.checkpoint.store import PARAMS, in_words, load_leaves, system_failure
from flaxmill.train.failures import CheckpointError, DamagedCheckpointError

State = TypeVar("State")


class StoredCheckpoint(NamedTuple):
    """A committed checkpoint, to be loaded onto any mesh; all processes of a job load it together.

    Loading it raises
      DamagedCheckpointError: it is not what was saved;
      CheckpointError: its leaves are not the wanted ones;
      OSError: the system refused to read it.
    """

    step: int
    path: Path
    arrays: Mapping[str, Any]
    """The shape, dtype and digest of each array, by name."""
    metadata: dict[str, Any]
    """What was given to the save with the state."""
    advice: Callable[[], str]
    """What to do if it is damaged."""

    def restore(
        self, abstract_state: State, *, arrays: Mapping[str, Any] | None = None, partial: bool = False
    ) -> State:
        """The whole state.

        Args:
          abstract_state: ShapeDtypeStructs with the shardings that the arrays get, on any mesh.
          arrays: the stored arrays that make up this state; None: all of them.
          partial: load a part of what was saved together.
        """
        arrays, wanted = self.arrays if arrays is None else arrays, named_leaves(abstract_state)
        check_fits(arrays, wanted, str(self.path))
        # First, since Orbax could not say what is damaged, and would leave its tasks behind.
        with together(self.path, self.advice):
            self._refuse(find_damaged_files(self.path, map(join, wanted)))
        with together(self.path, self.advice):
            try:
                leaves = load_leaves(self.path, wanted, partial=partial)
            except Exception as error:
                self._raise_cause(error, arrays, wanted)
                raise
        changed = {name: arrays[name] for name in find_changed(arrays, leaves)}
        with together(self.path, self.advice):
            self._check_unchanged(changed)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[leaf] for leaf in wanted])

    def restore_params(self, abstract_params: State, *, without: tuple[str, ...] = ()) -> State:
        """The parameters alone.

        Args:
          without: groups at the top of params, such as "mlm", that are neither loaded nor compared; groups
            of these names in `abstract_params`, then a dict, are left out of the result.
        """
        arrays = {name: array for name, array in self.arrays.items() if name.startswith(f"{PARAMS}/")}
        if not without:
            return self.restore({PARAMS: abstract_params}, arrays=arrays)[PARAMS]
        assert isinstance(abstract_params, dict)
        groups = {name.split("/")[1] for name in arrays}
        if unknown := sorted(set(without) - groups - set(abstract_params)):
            raise CheckpointError(
                f"{self.path} has no params {', '.join(unknown)} to leave out; "
                f"it has {', '.join(sorted(groups))}"
            )
        arrays = {name: array for name, array in arrays.items() if name.split("/")[1] not in without}
        kept: Any = {group: tree for group, tree in abstract_params.items() if group not in without}
        return self.restore({PARAMS: kept}, arrays=arrays, partial=True)[PARAMS]

    def _raise_cause(
        self, error: Exception, arrays: Mapping[str, Any], wanted: Mapping[LeafPath, Any]
    ) -> None:
        """Orbax loads all arrays at once; read them one by one to see why that failed."""
        if failure := system_failure(error):
            raise OSError(f"{self.path} could not be read: {failure}") from error
        names = [join(leaf) for leaf in wanted]
        problems = find_damaged_files(self.path, names)
        self._refuse(problems or find_damaged_arrays(self.path, {name: arrays[name] for name in names}))
        # Each array alone is whole, so something else failed, such as memory: no reason to go back.
        raise CheckpointError(f"{self.path} could not be loaded: {in_words(error)}") from error

    def _check_unchanged(self, changed: Mapping[str, Any]) -> None:
        self._refuse(find_damaged_arrays(self.path, changed))
        if changed:
            raise CheckpointError(
                f"{self.path} is whole, but {', '.join(changed)} changed on the way from the disk; "
                "start again, and check this machine's memory if that does not help"
            )

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            damage = f"{self.path} is damaged: {join_problems(problems)}"
            raise DamagedCheckpointError(damage, self.advice())

"""Arguments that stay the same over a run: its programs are given them, and not compiled for them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Given:
    """A compiled function, and scalars that each of its calls is given.

    Another run with other values, another seed or learning rate, then finds the program in the compilation
    cache: a constant would be part of it.
    """

    def __init__(self, function: Any, mesh: Mesh, **given: Any) -> None:
        """`function`: jitted. `given`: pytrees of NumPy scalars, by the names of its arguments."""
        self._function, self._mesh, self._given = function, mesh, given
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._placed: Any = None

    def given(self, **given: Any) -> "Given":
        """The same compiled function, given other values of some of these scalars."""
        return Given(self._function, self._mesh, **self._given | given)

    def __call__(self, *arguments: Any) -> Any:
        if self._placed is None:  # not before, since the devices of a plan are not there
            with jax.transfer_guard("allow"):  # once, and meant
                self._placed = jax.tree.map(self._place, self._given)
        return self._function(*arguments, **self._placed)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """As that of a jitted function."""
        return self._function.lower(*arguments, **jax.tree.map(self._describe, self._given))

    def _place(self, value: np.generic) -> jax.Array:
        array = np.asarray(value)
        # By callback, since device_put would have the processes of a job compare their values.
        return jax.make_array_from_callback((), self._whole, lambda _: array)

    def _describe(self, value: np.generic) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), value.dtype, sharding=self._whole)

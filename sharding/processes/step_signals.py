"""When one process is told to stop or save, all processes do it after the same step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from flaxmill.sharding.placement import place_on_devices


class Stop(Protocol):
    """Something that may ask the run to end."""

    @property
    def requested(self) -> bool: ...

    def started(self) -> None:
        """The run has made a step: from now on there is something to save."""
        ...

    def saved(self) -> None:
        """A checkpoint holds every step that was made."""
        ...


class StepRequest(NamedTuple):
    """What to do after a step: save and end, or save and go on."""

    stop: bool = False
    save: bool = False


class Signals:
    """Processes agree through the steps: each gives its flags to the step that it dispatches, the step
    reduces them over all devices, and every process reads the same result with the step's metrics.

    A process alone acts on its own flags at once.
    """

    def __init__(self, mesh: Mesh, stop: Stop | None, wants_save: Callable[[], bool]) -> None:
        self._mesh, self._stop, self._wants_save = mesh, stop, wants_save
        self._many = jax.process_count() > 1

    def inputs(self) -> jax.Array | None:
        """int32 [devices, 2], this process's flags on each of its devices; None for a process alone."""
        return place_on_devices(self._mesh, [int(wish) for wish in self._own()]) if self._many else None

    def agreed(self, reduced: Any) -> StepRequest:
        """What all processes act on.

        Args:
          reduced: the metric `signals` of the newest step that was read, [2], or None.
        """
        if not self._many:
            return self._own()
        return StepRequest() if reduced is None else StepRequest(*(bool(wish) for wish in reduced))

    def _own(self) -> StepRequest:
        return StepRequest(stop=self._stop is not None and self._stop.requested, save=self._wants_save())

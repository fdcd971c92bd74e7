"""Compiles a run's programs in a thread: while its data are prepared, and before they are first called."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import NamedTuple, Self

import jax
from jax.sharding import Mesh

from flaxmill.data.objectives import has_labels
from flaxmill.train.compilation.programs import (
    Programs,
    compile_eval_step,
    compile_init,
    compile_train_step,
    make_programs,
)
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.compiled_step import resolve_without_tokenizer

_THREAD = "compile-ahead"


class _Expected(NamedTuple):
    """The experiment as its data are expected to resolve it, and its programs."""

    experiment: Experiment
    programs: Programs


class Ahead:
    """Context manager: compiles what a run is expected to call, one program after another.

    It changes no result: a program that it has not compiled, or failed to compile, is compiled at its first
    call, which raises what there is to raise. Wait for a program before that call, or it may be compiled
    twice at once.

    A job of many processes compiles nothing ahead: on some platforms they exchange what they compile, and
    must do so in one order.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, _THREAD)
        self._expected: Future[_Expected] | None = None
        self._compiled: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin no further program. One that is being compiled is finished, and not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def expect(self, experiment: Experiment, mesh: Mesh, *, is_fresh: bool) -> None:
        """Begin to compile for this experiment, whose data and tokenizer may not be there yet.

        Args:
          is_fresh: its weights will be drawn from the seed.
        """
        data = experiment.data
        is_open = has_labels(data, experiment.objective) and not (data.labels or experiment.model.num_labels)
        if is_open or jax.process_count() > 1:
            return
        self._expected = self._pool.submit(_expect, experiment, mesh)
        if is_fresh:
            self._begin("init", lambda on: compile_init(on.programs, mesh))
        self._begin("train_step", lambda on: compile_train_step(on.programs, on.experiment, mesh))
        self._begin("eval_step", lambda on: compile_eval_step(on.programs, on.experiment, mesh))

    def programs(self, experiment: Experiment, mesh: Mesh) -> Programs:
        """The programs of the resolved experiment: those that are being compiled, if it is as expected."""
        if self._expected is not None and self._expected.exception() is None:
            expected = self._expected.result()
            # Labels count by their number alone, which the model has too.
            data = dataclasses.replace(expected.experiment.data, labels=experiment.data.labels)
            if dataclasses.replace(expected.experiment, data=data) == experiment:
                return expected.programs
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._compiled = {}
        return make_programs(experiment, mesh)

    def wait_for(self, name: str) -> None:
        """Return when the program of this name is compiled, or its first call is to compile it."""
        if name in self._compiled:
            wait([self._compiled[name]])

    def _begin(self, name: str, compile_: Callable[[_Expected], None]) -> None:
        expected = self._expected
        assert expected is not None, "it knows what to compile"
        self._compiled[name] = self._pool.submit(lambda: compile_(expected.result()))


def is_compiling() -> bool:
    """Whether a program is still being compiled ahead, maybe for a run that has ended."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())


def _expect(experiment: Experiment, mesh: Mesh) -> _Expected:
    expected = resolve_without_tokenizer(experiment)
    return _Expected(expected, make_programs(expected, mesh))

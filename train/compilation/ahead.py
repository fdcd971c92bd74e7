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
from flaxmill.sharding.rules import platform
from flaxmill.train.compilation.compiled_step import resolve_without_tokenizer
from flaxmill.train.compilation.programs import (
    Programs,
    compile_digests_of_state,
    compile_eval_step,
    compile_init,
    compile_train_step,
    for_steps_of,
    make_programs,
)
from flaxmill.train.experiment import Experiment

_THREAD = "compile-ahead"

_Compile = Callable[[Programs, Experiment, Mesh], None]


class _Expected(NamedTuple):
    """A resolved experiment, and its programs."""

    experiment: Experiment
    programs: Programs


class Ahead:
    """Context manager: compiles what a run is expected to call, one program after another.

    It changes no result: a program that it has not compiled, or failed to compile, is compiled at its first
    call, which raises what there is to raise. Wait for a program before that call, or it may be compiled
    twice at once.

    A job of many processes compiles nothing ahead: on some platforms they exchange what they compile, and
    must do so in one order. GPUs time kernels while they compile: once training runs, they are left alone.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, _THREAD)
        self._expected: Future[_Expected] | None = None
        self._compiled: dict[str, Future[None]] = {}
        self._later: dict[str, Callable[[], None]] = {}
        self._starts: _Compile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin no further program. One that is being compiled is finished, and not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def expect(self, experiment: Experiment, mesh: Mesh, *, has_checkpoint: bool) -> None:
        """Begin to compile for this experiment, whose data and tokenizer may not be there yet.

        Args:
          has_checkpoint: it continues from one.
        """
        if has_checkpoint:
            self._starts = compile_digests_of_state
        elif experiment.init_from is None:
            self._starts = compile_init
        data = experiment.data
        is_open = has_labels(data, experiment.objective) and not (data.labels or experiment.model.num_labels)
        if not is_open and jax.process_count() == 1:
            self._begin_all(mesh, lambda: resolve_without_tokenizer(experiment))

    def programs(self, experiment: Experiment, mesh: Mesh) -> Programs:
        """The programs of the resolved experiment; if it is not as expected, their compilation begins now."""
        if jax.process_count() > 1:
            return make_programs(experiment, mesh)
        if self._expected is not None and self._expected.exception() is None:
            expected = self._expected.result()
            # Labels count by their number alone, which the model has too, and steps by the learning rates.
            data = dataclasses.replace(expected.experiment.data, labels=experiment.data.labels)
            if dataclasses.replace(expected.experiment, data=data, steps=experiment.steps) == experiment:
                return for_steps_of(expected.programs, experiment)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = ThreadPoolExecutor(1, _THREAD)
        return self._begin_all(mesh, lambda: experiment).result().programs

    def begin_later(self, name: str, compile_: Callable[[], None], mesh: Mesh) -> None:
        """Compile something else too, beside the first steps: before, it would take a processor from what the
        first step waits for."""
        if jax.process_count() == 1 and platform(mesh) != "gpu":
            self._later[name] = compile_

    def begin_rest(self) -> None:
        """Begin to compile what was kept for later."""
        for name, compile_ in self._later.items():
            self._compiled[name] = self._pool.submit(compile_)
        self._later = {}

    def wait_for(self, name: str) -> None:
        """Return when the program of this name is compiled, or its first call is to compile it."""
        if name in self._later:
            self.begin_rest()
        if name in self._compiled:
            wait([self._compiled[name]])

    def _begin_all(self, mesh: Mesh, resolve: Callable[[], Experiment]) -> "Future[_Expected]":
        """Begin to compile in the order of the first calls."""

        def make() -> _Expected:
            experiment = resolve()
            return _Expected(experiment, make_programs(experiment, mesh))

        def compiles(compile_: _Compile) -> Callable[[], None]:
            return lambda: compile_(expected.result().programs, expected.result().experiment, mesh)

        expected = self._expected = self._pool.submit(make)
        # What other weights need is small, and compiled where they are loaded, beside the step.
        if self._starts is not None:
            self._compiled["start"] = self._pool.submit(compiles(self._starts))
        self._compiled["train_step"] = self._pool.submit(compiles(compile_train_step))
        if self._starts is not compile_digests_of_state:
            self.begin_later("digests", compiles(compile_digests_of_state), mesh)
        self.begin_later("eval_step", compiles(compile_eval_step), mesh)
        return expected


def is_compiling() -> bool:
    """Whether a program is still being compiled ahead, maybe for a run that has ended."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())

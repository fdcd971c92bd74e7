"""The functions that a run calls on its devices, as shapes alone are enough to make them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from flaxmill.data.objectives import find_function
from flaxmill.model.functional import abstract_params
from flaxmill.sharding.given_arguments import Given
from flaxmill.sharding.processes.allocator import give_back_freed_memory
from flaxmill.train.checkpoint.digest import compile_digests
from flaxmill.train.checkpoint.manifest import join, named_leaves
from flaxmill.train.compilation.abstract_batch import abstract_batch
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.state import TrainState, abstract_state, make_init
from flaxmill.train.step import EvalStep, make_eval_step, make_train_step, with_steps_of


class Programs(NamedTuple):
    """What a run computes; each is compiled at its first call, if not before."""

    optimizer: optax.GradientTransformation
    init: Callable[[], TrainState]
    train_step: Given
    eval_step: EvalStep


def make_programs(experiment: Experiment, mesh: Mesh) -> Programs:
    """The programs of a resolved experiment; nothing is compiled yet."""
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    bound = experiment.definition.data.max_predictions
    max_predictions = None if bound is None else find_function(bound)(experiment.data)
    return Programs(
        optimizer,
        make_init(experiment.model, optimizer, mesh, experiment.seed),
        make_train_step(experiment, optimizer, mesh, max_predictions),
        make_eval_step(experiment, mesh, max_predictions),
    )


def for_steps_of(programs: Programs, experiment: Experiment) -> Programs:
    """The programs for an experiment that differs in nothing but `steps`; what is compiled stays so."""
    return programs._replace(train_step=with_steps_of(programs.train_step, experiment))


def compile_init(programs: Programs, experiment: Experiment, mesh: Mesh) -> None:
    """Compile what draws fresh weights; the program's first call finds it compiled, as with all below."""
    with jax.set_mesh(mesh):
        _compile(programs.init)


def compile_train_step(programs: Programs, experiment: Experiment, mesh: Mesh) -> None:
    """Compile the step of a process alone, which is given no signals of others."""
    state = abstract_state(experiment.model, programs.optimizer, mesh)
    with jax.set_mesh(mesh):
        _compile(programs.train_step, state, abstract_batch(experiment, mesh).arrays, None)


def compile_digests_of_state(programs: Programs, experiment: Experiment, mesh: Mesh) -> None:
    """Compile the digests of a save and of a restore."""
    state = abstract_state(experiment.model, programs.optimizer, mesh)
    with jax.set_mesh(mesh):
        compile_digests({join(path): leaf for path, leaf in named_leaves(state).items()})


def compile_eval_step(programs: Programs, experiment: Experiment, mesh: Mesh) -> None:
    """Compile the step of an evaluation."""
    params = abstract_state(experiment.model, programs.optimizer, mesh).params
    with jax.set_mesh(mesh):
        _compile(programs.eval_step, params, abstract_batch(experiment, mesh, "valid").arrays, None)


def _compile(program: Any, *arguments: Any) -> None:
    program.lower(*arguments).compile()
    give_back_freed_memory()

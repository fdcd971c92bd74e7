"""Layers as a circular pipeline: stages hold some layers each, and microbatches go from one to the next.

With R rounds a stage has R runs of layers in place of one, and each microbatch goes round R times; the fewer
layers a turn has, the less stages wait at both ends (Narayanan et al. 2021, section 2.2).
"""

# S stages, R rounds, M microbatches, L layers, T tokens, D model
# N rows of a device, B of all stages, b of a microbatch

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.local_stages import (
    all_rows,
    num_stages,
    own_layers,
    own_rows,
    pass_on,
    stage_number,
)
from flaxmill.sharding.rules import on_activations
from flaxmill.sharding.schedule import Pipeline, microbatches


class Schedule(NamedTuple):
    """How rows pass through the stages."""

    num_microbatches: int | None = None
    """Parts into which a group of stages divides its rows; None: as `microbatches` has it."""
    num_rounds: int = 1
    """How often a microbatch goes through all stages."""


class Rows(NamedTuple):
    """What layers read beside hidden states; all of it has a row for each of theirs."""

    batch: dict[str, jax.Array]
    keys: jax.Array | None


class Turn(NamedTuple):
    """Which layers a microbatch goes through: those of one stage in one round."""

    round: jax.Array
    """The index of its layers among those of the stage [R,l,...]."""
    number: jax.Array
    """How many turns come before it."""


RunTurn = Callable[[jax.Array, Rows, Any, Turn], tuple[jax.Array, Any]]
"""(hidden states [b,T,D], their rows, the stage's layers, a turn) -> (hidden states, sums that add up)."""

_SIMPLE = Schedule()
_schedule: contextvars.ContextVar[Schedule] = contextvars.ContextVar("schedule", default=_SIMPLE)


@contextlib.contextmanager
def scheduled(num_microbatches: int | None, num_rounds: int) -> Iterator[None]:
    """Pipelines inside have this schedule."""
    token = _schedule.set(Schedule(num_microbatches, num_rounds))
    try:
        yield
    finally:
        _schedule.reset(token)


def schedule() -> Schedule:
    """The schedule in use."""
    return _schedule.get()


def run_pipeline(
    run_turn: RunTurn, x_NTD: jax.Array, rows: Rows, layers: Any, dtype: Any
) -> tuple[jax.Array, Any]:
    """Hidden states [N,T,D] of this device's rows after all layers, and the sums of this stage.

    A stage works at each tick on the microbatch that the one before it has passed on; the first takes those
    that wait, which are new ones or come back for another round.

    Args:
      layers: modules with parameters stacked along L.
      dtype: the one to compute in.
    """
    size, stage, num_rounds = num_stages(), stage_number(), schedule().num_rounds
    num_rows = size * len(x_NTD)
    num_microbatches = schedule().num_microbatches or microbatches(num_rows, size)
    num_turns = num_microbatches * num_rounds
    split = functools.partial(_split_rows, num_microbatches=num_microbatches)
    hidden = "batch", "residual_tokens", None
    waiting_MbTD = split(on_activations(all_rows, *hidden)(x_NTD))
    rows_of = jax.tree.map(lambda x: split(all_rows(x)), _without_keys(rows))
    layers = _own_layers(layers, num_rounds, dtype)

    def run(x_bTD: jax.Array, place: jax.Array, number: jax.Array) -> tuple[jax.Array, Any]:
        own = _with_keys(_pick(rows_of, place))
        return run_turn(x_bTD, own, layers, Turn(number, number * size + stage))

    def tick(carry: tuple[jax.Array, jax.Array, Any], time: jax.Array):
        waiting_MbTD, x_bTD, sums = carry
        turn = time - stage
        place, number = turn % num_microbatches, jnp.clip(turn // num_microbatches, 0, num_rounds - 1)
        x_bTD = jnp.where(stage == 0, _pick(waiting_MbTD, place), x_bTD)
        x_bTD, found = run(x_bTD, place, number)
        has_work = (turn >= 0) & (turn < num_turns)
        sums = jax.tree.map(lambda total, new: total + jnp.where(has_work, new, 0), sums, found)
        passed_bTD = pass_on(x_bTD)
        done = time - (size - 1)  # the turn that the last stage has ended
        kept_bTD = jnp.where(
            (stage == 0) & (done >= 0), passed_bTD, _pick(waiting_MbTD, done % num_microbatches)
        )
        waiting_MbTD = jax.lax.dynamic_update_index_in_dim(waiting_MbTD, kept_bTD, done % num_microbatches, 0)
        return (waiting_MbTD, passed_bTD, sums), None

    x_bTD = jnp.zeros_like(waiting_MbTD[0])
    shapes = jax.eval_shape(run, x_bTD, stage, stage)[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = waiting_MbTD, x_bTD, sums
    (waiting_MbTD, _, sums), _ = jax.lax.scan(
        tick, start, jnp.arange(Pipeline(size, num_microbatches, num_rounds).ticks)
    )
    x_BTD = jnp.where(stage == 0, _join_rows(waiting_MbTD), 0)
    return on_activations(own_rows, *hidden)(x_BTD), sums


def _own_layers(layers: Any, num_rounds: int, dtype: Any) -> Any:
    def of_stage(variable: nnx.Variable) -> nnx.Variable:
        metadata = variable.get_metadata()
        shard = variable[...]
        computed = sum_dtype(jnp.zeros((), dtype)) if metadata["is_wide"] else dtype
        return variable.replace(own_layers(shard, metadata["logical_axes"], num_rounds, computed))

    return jax.tree.map(of_stage, layers, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _pick(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=False), tree)


def _without_keys(rows: Rows) -> Rows:
    """Rows as plain numbers, which devices can send."""
    return rows._replace(keys=None if rows.keys is None else jax.random.key_data(rows.keys))


def _with_keys(rows: Rows) -> Rows:
    return rows._replace(keys=None if rows.keys is None else jax.random.wrap_key_data(rows.keys))


def _split_rows(x_B: jax.Array, num_microbatches: int) -> jax.Array:
    """[B,...] -> [M,b,...], taking every M-th row."""
    return x_B.reshape(-1, num_microbatches, *x_B.shape[1:]).swapaxes(0, 1)


def _join_rows(x_Mb: jax.Array) -> jax.Array:
    """[M,b,...] -> [B,...], the way back of `_split_rows`."""
    return x_Mb.swapaxes(0, 1).reshape(-1, *x_Mb.shape[2:])

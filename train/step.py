"""One update of the weights, jitted in one place."""

# A microbatches, B batch, b rows of a microbatch

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmill.model.functional import abstract_params, bind, logical_axes
from flaxmill.model.layers.dropout import row_keys
from flaxmill.model.params import Params, merge
from flaxmill.model.pipeline import scheduled
from flaxmill.model.transformer import Batch, Transformer, complete_batch
from flaxmill.sharding.given_arguments import Given
from flaxmill.sharding.hardware.compiler_options import compiler_options
from flaxmill.sharding.local_rows import (
    batch_specs,
    gradients_sent_as,
    on_local_rows,
    parameter_spec,
    rows_spec,
    sum_gradients,
    sum_over_rows,
)
from flaxmill.sharding.memory import is_offloaded
from flaxmill.sharding.placement import has_tokens
from flaxmill.sharding.rules import platform, splits_residual
from flaxmill.train.checkpoint.digest import digest_array
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.by_source import add_by_source
from flaxmill.train.objectives.losses import Sums, combine, denominators, numerators, source_losses
from flaxmill.train.optimizer.freezing import Trainable, choose_trainable
from flaxmill.train.optimizer.optimizers import clip_gradients
from flaxmill.train.optimizer.schedule import Curve, learning_rate_at, make_curve
from flaxmill.train.state import TrainState, param_shardings, state_shardings

Metrics = dict[str, jax.Array]
EvalStep = Callable[..., tuple[Sums, Sums, jax.Array | None]]
RowFunction = Callable[[Transformer, Batch], Metrics]


class Learned(NamedTuple):
    """What an update changes: the trained parameters, and the optimizer's state."""

    params: Params
    optimizer: Any


def make_train_step(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    max_predictions: int | None,
) -> Given:
    """(state, batch, signals=None) -> (state, metrics), compiled at its first call; the old state is donated.

    Metrics are scalars: loss and its parts, grad_norm before clipping, learning_rate, num_tokens (real
    tokens of this batch), skipped (True if the loss or gradient was not finite: the weights and the
    optimizer then stay as they were) and skipped_steps (how many so far). `signals` is int32
    [devices, flags]; the metric `signals` [flags] is its maximum over devices. With
    `experiment.log_digests` there are also `batch_digest`, and `key`: the step's random key, two words.
    A mixture also has source_losses and source_tokens [K].
    Frozen parameters have no gradient: none is computed, and grad_norm counts none.
    """
    num_sources = len(experiment.data.sources)
    trainable = choose_trainable(experiment.optimizer.freeze, abstract_params(experiment.model))
    gradients_of = _make_gradients(experiment, trainable, mesh, max_predictions)

    def train_step(
        state: TrainState, batch: Batch, signals: jax.Array | None = None, *, seed: jax.Array, curve: Curve
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained, frozen = trainable.split(state.params)
        totals = denominators(experiment.objective, batch, num_sources)
        grads, sums = gradients_of(trained, frozen, batch, totals, key)
        losses = combine(experiment.objective, experiment.z_loss, sums, totals)
        grad_norm = optax.tree.norm(grads)
        learning_rate = learning_rate_at(experiment.optimizer, curve, state.step)

        # A step that is not finite leaves everything learned as it was.
        finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
        with jax.named_scope("update"):
            old = Learned(trained, state.optimizer)
            update = _make_update(grads, grad_norm, learning_rate, finite, optimizer, trainable, experiment)
            learned = _where_finite(finite, update, old, offloads=experiment.optimizer.offload)
        params = merge(learned.params, frozen)
        new_state = TrainState(params, learned.optimizer, state.step + 1, state.skipped + ~finite)

        metrics = losses | {
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "skipped": ~finite,
            "num_tokens": _count_tokens(batch),
            "skipped_steps": new_state.skipped,
        }
        if experiment.log_digests:
            metrics |= {"batch_digest": _digest_batch(batch), "key": jax.random.key_data(key)}
        if num_sources:
            metrics |= _of_sources(experiment.objective, sums, totals, batch, num_sources)
        if signals is not None:
            metrics["signals"] = signals.max(axis=0)
        return new_state, metrics

    shardings, options = _places_and_options(experiment, optimizer, mesh)
    compiled = jax.jit(train_step, donate_argnums=0, out_shardings=shardings, compiler_options=options)
    curve = make_curve(experiment.optimizer, experiment.steps)
    return Given(compiled, mesh, seed=np.uint32(experiment.seed), curve=curve)


def with_steps_of(step: Given, experiment: Experiment) -> Given:
    """The compiled step with the learning rates of the experiment, which may differ in `steps`."""
    return step.given(curve=make_curve(experiment.optimizer, experiment.steps))


def _places_and_options(
    experiment: Experiment, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[Any, dict[str, Any] | None]:
    """Where a step puts its results, and what its compiler is told."""
    of_state = state_shardings(experiment.model, optimizer, mesh)
    return (of_state, None), compiler_options(platform(mesh)) or None


def _count_tokens(batch: Batch) -> jax.Array:
    """Real tokens, an encoder-decoder's targets included."""
    return batch["mask"].sum() + (batch["decoder_mask"].sum() if "decoder_mask" in batch else 0)


def _of_sources(objective: str, sums: Sums, totals: Sums, batch: Batch, num_sources: int) -> Metrics:
    """The loss and the real tokens of each source of a mixture [K]."""
    tokens = batch["mask"].sum(1) + (batch["decoder_mask"].sum(1) if "decoder_mask" in batch else 0)
    losses = source_losses(objective, sums, totals)
    of_each = {} if losses is None else {"source_losses": losses}
    return of_each | {"source_tokens": add_by_source(tokens, batch, num_sources).astype(jnp.int32)}


def _digest_batch(batch: Batch) -> jax.Array:
    """One uint32 for the global batch, the same on every mesh."""
    if "places" in batch:
        order = jnp.argsort(batch["places"][0])
        in_order = {name: x[:, order] if has_tokens(name, x.ndim) else x for name, x in batch.items()}
        batch = {name: x for name, x in in_order.items() if name != "places"}
    digests = jnp.stack([digest_array(batch[name]) for name in sorted(batch)])
    return digest_array(digests)


def make_eval_step(experiment: Experiment, mesh: Mesh, max_predictions: int | None) -> EvalStep:
    """(params, batch, signals=None) -> sums of losses and of weights over the batch, without dropout, and the
    maximum of the signals over devices."""
    param_specs = _param_specs(experiment, mesh)

    def on_device(params: Params, rows: Batch) -> Sums:
        with splits_residual(experiment.mesh.sequence_parallel), _scheduled(experiment):
            sums = numerators(
                experiment.objective,
                experiment.model,
                params,
                rows,
                max_predictions=max_predictions,
                beta=experiment.beta,
                temperature=experiment.temperature,
                pooling=experiment.text_pooling,
            )
            return sum_over_rows(sums)

    def eval_step(
        params: Params, batch: Batch, signals: jax.Array | None = None
    ) -> tuple[Sums, Sums, jax.Array | None]:
        agreed = None if signals is None else signals.max(axis=0)
        specs = (param_specs, batch_specs(mesh, batch))
        sums_of = on_local_rows(on_device, mesh, specs, PartitionSpec())
        return sums_of(params, batch), denominators(experiment.objective, batch), agreed

    return jax.jit(eval_step, compiler_options=compiler_options(platform(mesh)) or None)


def make_row_step(experiment: Experiment, mesh: Mesh, of_rows: RowFunction) -> Callable[..., Metrics]:
    """(params, batch) -> what `of_rows` gives for the rows of a batch, without dropout: arrays [B,...] that
    every process holds whole."""

    def on_device(params: Params, rows: Batch) -> Metrics:
        with splits_residual(experiment.mesh.sequence_parallel), _scheduled(experiment):
            return of_rows(bind(experiment.model, params), complete_batch(experiment.model, rows))

    def row_step(params: Params, batch: Batch) -> Metrics:
        specs = (_param_specs(experiment, mesh), batch_specs(mesh, batch))
        return on_local_rows(on_device, mesh, specs, rows_spec(mesh))(params, batch)

    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(row_step, out_shardings=whole, compiler_options=compiler_options(platform(mesh)) or None)


def _scheduled(experiment: Experiment) -> contextlib.AbstractContextManager[None]:
    return scheduled(experiment.pipeline_microbatches, experiment.pipeline_rounds)


def _param_specs(experiment: Experiment, mesh: Mesh) -> Params:
    axes, shapes = logical_axes(experiment.model), abstract_params(experiment.model)
    return jax.tree.map(lambda _, axes: parameter_spec(mesh, axes), shapes, axes)


def _make_gradients(
    experiment: Experiment, trainable: Trainable, mesh: Mesh, max_predictions: int | None
) -> Callable[..., tuple[Params, Sums]]:
    """(trained, frozen, batch, totals, key) -> gradients of the batch's loss, and its sums.

    Each device runs its own rows: it gathers the weights it needs and reduces what it gives.
    """
    axes, _ = trainable.split(logical_axes(experiment.model))
    shardings, _ = trainable.split(param_shardings(experiment.model, mesh))

    def on_device(trained: Params, frozen: Params, batch: Batch, totals: Sums, keys_B: jax.Array):
        loss_of = _make_loss(experiment, totals, max_predictions, frozen)
        sends = gradients_sent_as(experiment.optimizer.gradient_dtype)
        with sends, splits_residual(experiment.mesh.sequence_parallel), _scheduled(experiment):
            gradients, sums = _accumulate(loss_of, trained, batch, experiment, keys_B)
            return sum_gradients(gradients, axes), sum_over_rows(sums)

    trained_specs, frozen_specs = trainable.split(_param_specs(experiment, mesh))
    whole = PartitionSpec()

    def gradients_of(trained: Params, frozen: Params, batch: Batch, totals: Sums, key: jax.Array):
        in_specs = (trained_specs, frozen_specs, batch_specs(mesh, batch), whole, rows_spec(mesh))
        of_rows = on_local_rows(on_device, mesh, in_specs, (trained_specs, whole))
        keys_B = row_keys(key, len(batch["tokens"]))
        gradients, sums = of_rows(trained, frozen, batch, totals, keys_B)
        # Else the compiler might move parameters, moments and updates instead.
        return trainable.hold(jax.lax.with_sharding_constraint(gradients, shardings)), sums

    return gradients_of


def _make_loss(experiment: Experiment, totals: Sums, max_predictions: int | None, frozen: Params):
    """The function to differentiate: the part of these rows in the batch's loss, and their sums, from the
    trained parameters."""

    def loss_of(trained: Params, rows: Batch, keys_B: jax.Array | None) -> tuple[jax.Array, Sums]:
        sums = numerators(
            experiment.objective,
            experiment.model,
            merge(trained, frozen),
            rows,
            max_predictions=max_predictions,
            keys=keys_B,
            label_smoothing=experiment.label_smoothing,
            num_sources=len(experiment.data.sources),
            beta=experiment.beta,
            temperature=experiment.temperature,
            pooling=experiment.text_pooling,
        )
        return combine(experiment.objective, experiment.z_loss, sums, totals)["loss"], sums

    return loss_of


def _accumulate(
    loss_of: Callable[..., tuple[jax.Array, Sums]],
    params: Params,
    batch: Batch,
    experiment: Experiment,
    keys_B: jax.Array,
) -> tuple[Params, Sums]:
    """Gradients and sums over the microbatches, one after the other."""
    grad_of = jax.grad(loss_of, has_aux=True)
    dropping = experiment.model.dropout > 0 or experiment.model.attention_dropout_rate > 0
    inputs = (batch, keys_B if dropping else None)
    if experiment.accumulate == 1:
        return grad_of(params, *inputs)

    def one(carry: Any, inputs: tuple[Batch, jax.Array | None]):
        return jax.tree.map(jnp.add, carry, grad_of(params, *inputs)), None

    microbatches = jax.tree.map(lambda x: _split_rows(x, experiment.accumulate), inputs)
    first = jax.tree.map(lambda x: x[0], microbatches)
    shapes = jax.eval_shape(grad_of, params, *first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(one, zeros, microbatches)[0]


def _split_rows(x: jax.Array, num_microbatches: int) -> jax.Array:
    """[B,...] -> [A,b,...], taking every A-th row, so that a row is in the same microbatch on every mesh."""
    return x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)


def _make_update(
    grads: Params,
    grad_norm: jax.Array,
    learning_rate: jax.Array,
    finite: jax.Array,
    optimizer: optax.GradientTransformation,
    trainable: Trainable,
    experiment: Experiment,
) -> Callable[[Learned], Learned]:
    """Clip by the global norm, and step; frozen layers of stacked arrays stay."""

    def update(old: Learned) -> Learned:
        clipped = clip_gradients(grads, grad_norm, experiment.optimizer.clip_norm)
        transform = optax.with_extra_args_support(optimizer).update
        updates, optimizer_state = transform(clipped, old.optimizer, old.params, finite=finite)
        params = jax.tree.map(lambda p, u: p + learning_rate * u, old.params, updates)
        return Learned(trainable.hold(params, old.params), optimizer_state)

    return update


def _where_finite(
    finite: jax.Array, update: Callable[[Learned], Learned], old: Learned, *, offloads: bool
) -> Learned:
    """What is learned after the update where the step was finite, and as it was where not."""
    # A branch reads and writes everything once less. Accelerators would wait for it, and arrays in the
    # memory of the host cannot go through it.
    if platform() == "cpu" and not offloads:
        return jax.lax.cond(finite, update, lambda old: old, old)
    return jax.tree.map(lambda new, old: _choose(finite, new, old), update(old), old)


def _choose(finite: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """The old array where the step was not finite; the optimizer has chosen among what is offloaded."""
    return new if is_offloaded(old) else jnp.where(finite, new, old)

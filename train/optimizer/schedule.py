"""Learning rate as a function of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flaxmill.train.optimizer.config import OptimizerConfig

_JUMP = 2.0


def make_schedule(config: OptimizerConfig, steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """A function from the step (from 0, may be traced) to its learning rate, a float32 scalar.

    Warm-up takes warmup_fraction of the steps, cut so that at least one step runs at the peak. Its first
    step is not zero: a step without effect is a wasted batch, and short runs have few. The end value
    belongs to step `steps`, the first that is not taken, so that the last step moves the weights too.
    So step s of `steps` with `warmup` steps of warm-up has the rate that transformers' schedules of these
    names (wsd: with decay_type="linear") give to step s + 1 of steps + 1 with warmup + 1: the same curve
    without its first step, which is zero there.
    Schedule "bert" keeps the original's numbers instead, zero at step 0 included.
    """
    assert steps >= 1, f"{steps=}"
    warmup = min(round(config.warmup_fraction * steps), steps - 1)
    if config.schedule == "bert":
        return _bert_schedule(config, steps, warmup)

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = (step + 1) / (warmup + 1)
        fall = config.final_fraction + (1 - config.final_fraction) * _decay(config, steps, warmup, step)
        # The last factor rounds like a plain product, so that the peak is the number in the config.
        return jnp.float32(config.learning_rate) * jnp.where(step < warmup, rise, fall)

    return schedule


def describe_jump(config: OptimizerConfig, old_steps: int, steps: int, step: int) -> str | None:
    """A line that says how the learning rate at `step` jumps, because the run is longer than it was; None if
    it does not jump."""
    if steps == old_steps or step >= steps:
        return None
    before, now = (float(make_schedule(config, total)(min(step, total))) for total in (old_steps, steps))
    if now <= _JUMP * before and before <= _JUMP * now:
        return None
    return (
        f"the learning rate goes from {before:.2g} to {now:.2g}: its schedule ended at step {old_steps}, and "
        f"now ends at step {steps}"
    )


def _decay(config: OptimizerConfig, steps: int, warmup: int, step: jax.Array) -> jax.Array:
    """From 1 at the end of warm-up down to 0 at step `steps`, in the schedule's shape."""
    if config.schedule == "constant":
        return jnp.ones_like(step)
    start = warmup
    if config.schedule == "wsd":  # linear decay, as good as any other shape in Haegele et al. 2024
        start = max(warmup, min(steps - round(config.decay_fraction * steps), steps - 1))
    progress = jnp.clip((step - start) / (steps - start), 0, 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * progress))  # Loshchilov and Hutter 2017, eq. 5
    return 1 - progress


def _bert_schedule(
    config: OptimizerConfig, steps: int, warmup: int
) -> Callable[[jax.Array | int], jax.Array]:
    """Google's BERT: the line of decay starts at step 0, so warm-up ends with a fall from the peak to it."""

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = step / max(warmup, 1)
        remaining = 1 - jnp.clip(step / steps, 0, 1)
        fall = config.final_fraction + (1 - config.final_fraction) * remaining
        return jnp.float32(config.learning_rate) * jnp.where(step < warmup, rise, fall)

    return schedule

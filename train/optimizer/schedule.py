"""Learning rate as a function of the step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.train.optimizer.config import OptimizerConfig

_JUMP = 2.0


class Curve(NamedTuple):
    """Where a schedule rises and falls: float32 scalars, in steps but for the peak."""

    peak: Any
    """The learning rate that its shape is multiplied by."""
    warmup: Any
    """The first step that is not of the warm-up."""
    rise: Any
    """Steps that the rise is divided by."""
    fall_start: Any
    fall: Any
    """Steps that the fall is divided by."""


def make_schedule(config: OptimizerConfig, steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """A function from the step (from 0, may be traced) to its learning rate, a float32 scalar."""
    return functools.partial(learning_rate_at, config, make_curve(config, steps))


def make_curve(config: OptimizerConfig, steps: int) -> Curve:
    """The curve of a run of so many steps.

    Warm-up takes warmup_fraction of the steps, cut so that at least one step runs at the peak. Its first
    step is not zero: a step without effect is a wasted batch, and short runs have few. The end value
    belongs to step `steps`, the first that is not taken, so that the last step moves the weights too.
    So step s of `steps` with `warmup` steps of warm-up has the rate that transformers' schedules of these
    names (wsd: with decay_type="linear") give to step s + 1 of steps + 1 with warmup + 1: the same curve
    without its first step, which is zero there.
    Schedule "bert" keeps the original's numbers instead, zero at step 0 included; its line of decay starts at
    step 0, so that warm-up ends with a fall from the peak to it.
    """
    assert steps >= 1, f"{steps=}"
    warmup = min(round(config.warmup_fraction * steps), steps - 1)
    if config.schedule == "bert":
        rise, start = max(warmup, 1), 0
    else:
        rise, start = warmup + 1, warmup
    if config.schedule == "wsd":  # linear decay, as good as any other shape in Haegele et al. 2024
        start = max(warmup, min(steps - round(config.decay_fraction * steps), steps - 1))
    return Curve(*(np.float32(x) for x in (config.learning_rate, warmup, rise, start, steps - start)))


def learning_rate_at(config: OptimizerConfig, curve: Curve, step: jax.Array | int) -> jax.Array:
    """float32 []: the rate of a step, in the schedule's shape; its curve may be traced too."""
    step = jnp.asarray(step, jnp.float32)
    rise = (step if config.schedule == "bert" else step + 1) / curve.rise
    fall = config.final_fraction + (1 - config.final_fraction) * _decay(config, curve, step)
    # The last factor rounds like a plain product, so that the peak is the number in the config.
    return curve.peak * jnp.where(step < curve.warmup, rise, fall)


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


def _decay(config: OptimizerConfig, curve: Curve, step: jax.Array) -> jax.Array:
    """From 1 at the end of warm-up down to 0 at the end, in the schedule's shape."""
    if config.schedule == "constant":
        return jnp.ones_like(step)
    progress = jnp.clip((step - curve.fall_start) / curve.fall, 0, 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * progress))  # Loshchilov and Hutter 2017, eq. 5
    return 1 - progress

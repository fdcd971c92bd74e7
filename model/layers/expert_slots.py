"""Sorts the tokens of a device by expert: each choice of a token gets a slot among those of its expert."""

# B batch, T tokens, M = B*T, D model, E experts, k choices of a token, P = M*k choices, S slots, N blocks

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.rules import platform

Form = Literal["ragged", "blocks", "buffers"]
"""How slots belong to experts. ragged: one expert's after another's, as many as it needs. blocks: the same,
rounded up to whole blocks. buffers: each expert has as many."""

MOST_BLOCK_ROWS = 512


class Groups(NamedTuple):
    """Which slots belong to which expert; neither is given: each expert has as many."""

    sizes: jax.Array | None = None
    """[E], ragged: the slots of each expert; those after them are empty."""
    experts: jax.Array | None = None
    """[N], blocks: the expert of each block."""


class Slots(NamedTuple):
    """Where each choice of a token is computed. A number past the end stands for none."""

    tokens: jax.Array
    """[S]: the token of each slot."""
    choices: jax.Array
    """[S]: the choice of each slot, counted through all tokens: token * k + choice."""
    places: jax.Array
    """[M,k]: the slot of each choice."""
    groups: Groups = Groups()


def make_slots(experts_BTk: jax.Array, num_experts: int, capacity: int | None) -> Slots:
    """Slots for the choices of tokens; E is the expert of none. `capacity` is that of `buffer_slots`."""
    if capacity is not None:
        return buffer_slots(experts_BTk, num_experts, capacity)
    # XLA:CPU computes a ragged product as one of all rows with every expert.
    make = block_slots if platform() == "cpu" else ragged_slots
    return make(experts_BTk, num_experts)


def row_capacity(shape: tuple[int, ...], num_experts: int, capacity: float | None) -> int | None:
    """The most tokens of one row that an expert takes, for choices of this shape [B,T,k] among all experts
    of a layer. `capacity` is `model.expert_capacity`; None: experts take all that come."""
    if capacity is None:
        return None
    return min(shape[1], math.ceil(capacity * shape[1] * shape[2] / num_experts))


def ragged_slots(experts_BTk: jax.Array, num_experts: int) -> Slots:
    """As many slots as choices, in order of experts."""
    experts_P = experts_BTk.reshape(-1)
    ranks_P, sizes_E = _ranks(experts_P, num_experts)
    starts_E = jnp.cumsum(sizes_E) - sizes_E
    slots_P = starts_E.at[experts_P].get(mode="fill", fill_value=len(experts_P)) + ranks_P
    slots_P = jnp.where(experts_P < num_experts, slots_P, len(experts_P))
    return _slots(experts_BTk, slots_P, len(experts_P), Groups(sizes=sizes_E))


def block_slots(experts_BTk: jax.Array, num_experts: int) -> Slots:
    """Slots in blocks of one expert each; the last block of an expert may have empty ones."""
    experts_P = experts_BTk.reshape(-1)
    rows = _block_rows(len(experts_P), num_experts)
    num_blocks = min(-(-len(experts_P) // rows) + num_experts, len(experts_P))
    ranks_P, sizes_E = _ranks(experts_P, num_experts)
    blocks_E = -(-sizes_E // rows)
    ends_E = jnp.cumsum(blocks_E)
    starts_P = (ends_E - blocks_E).at[experts_P].get(mode="fill", fill_value=num_blocks) * rows
    slots_P = jnp.where(experts_P < num_experts, starts_P + ranks_P, num_blocks * rows)
    experts_N = jnp.searchsorted(ends_E, jnp.arange(num_blocks), side="right")
    groups = Groups(experts=jnp.minimum(experts_N, num_experts - 1))
    return _slots(experts_BTk, slots_P, num_blocks * rows, groups)


def buffer_slots(experts_BTk: jax.Array, num_experts: int, capacity: int) -> Slots:
    """`capacity` slots of each expert for each row.

    Likelier choices come first, and then earlier tokens (Lepikhin et al. 2021, algorithm 1). What a row loses
    does not depend on the other rows, nor on how many a device has.
    """
    num_rows = len(experts_BTk)
    experts_BkT = experts_BTk.swapaxes(1, 2)
    rows_B11 = jnp.arange(num_rows)[:, None, None]
    has_expert_BkT = experts_BkT < num_experts
    groups_BkT = jnp.where(has_expert_BkT, rows_B11 * num_experts + experts_BkT, num_rows * num_experts)
    ranks_P, _ = _ranks(groups_BkT.reshape(-1), num_rows * num_experts)
    ranks_BkT = ranks_P.reshape(groups_BkT.shape)
    num_slots = num_experts * num_rows * capacity
    slots_BkT = (experts_BkT * num_rows + rows_B11) * capacity + ranks_BkT
    slots_BkT = jnp.where(has_expert_BkT & (ranks_BkT < capacity), slots_BkT, num_slots)
    return _slots(experts_BTk, slots_BkT.swapaxes(1, 2).reshape(-1), num_slots, Groups())


@jax.custom_vjp
def spread(x_MD: jax.Array, slots: Slots) -> jax.Array:
    """[S,D]: the token of each slot, zeros in empty ones."""
    return x_MD.at[slots.tokens].get(mode="fill", fill_value=0)


@jax.custom_vjp
def collect(x_SD: jax.Array, slots: Slots) -> jax.Array:
    """[M,D]: the sum of the slots of each token, added in float32."""
    picked_MkD = x_SD.at[slots.places].get(mode="fill", fill_value=0)
    return picked_MkD.sum(1, dtype=sum_dtype(x_SD)).astype(x_SD.dtype)


# Each is the other's transpose. JAX's own would add rows up one by one, in an order that may change.
spread.defvjp(lambda x, slots: (spread(x, slots), slots), lambda slots, g: (collect(g, slots), None))
collect.defvjp(lambda x, slots: (collect(x, slots), slots), lambda slots, g: (spread(g, slots), None))


def of_slots(values_Mk: jax.Array, slots: Slots) -> jax.Array:
    """[S]: the value of the choice that each slot holds, 0 in empty ones."""
    return values_Mk.reshape(-1).at[slots.choices].get(mode="fill", fill_value=0)


def _slots(experts_BTk: jax.Array, slots_P: jax.Array, num_slots: int, groups: Groups) -> Slots:
    k = experts_BTk.shape[-1]
    choices_S = jnp.full(num_slots, len(slots_P), jnp.int32)
    choices_S = choices_S.at[slots_P].set(jnp.arange(len(slots_P), dtype=jnp.int32), mode="drop")
    return Slots(choices_S // k, choices_S, slots_P.reshape(-1, k), groups)


def _ranks(groups_P: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """How many of the same group come before each, and the size of each group [G]; G is no group."""
    order_P = jnp.argsort(groups_P, stable=True)
    sizes = jnp.bincount(groups_P, length=num_groups + 1)
    starts = jnp.cumsum(sizes) - sizes
    sorted_ranks_P = jnp.arange(len(groups_P)) - starts[groups_P[order_P]]
    ranks_P = jnp.zeros_like(sorted_ranks_P).at[order_P].set(sorted_ranks_P, unique_indices=True)
    return ranks_P, sizes[:-1].astype(jnp.int32)


def _block_rows(num_choices: int, num_experts: int) -> int:
    """A power of two: about four blocks an expert: few slots stay empty, and few weights are copied."""
    rows = max(1, num_choices // (4 * num_experts))
    return min(MOST_BLOCK_ROWS, 2 ** (rows.bit_length() - 1))

"""How tokens meet the experts of a layer, on one device or where devices hold different ones."""

# B batch, T tokens, M = B*T, D model, E experts, k choices of a token, S slots, G devices of a group,
# C chunks

from collections.abc import Callable

import jax

from flaxmill.model.layers.expert_slots import (
    Groups,
    buffer_slots,
    collect,
    make_slots,
    of_slots,
    row_capacity,
    spread,
)
from flaxmill.model.layers.router import Routing
from flaxmill.sharding.local_experts import exchange_parts, gather_rows, num_groups, own_choices, sum_rows

Compute = Callable[[jax.Array, jax.Array, Groups], jax.Array]
"""(x_SD, weights_S, groups) -> y_SD: each slot through the expert of its group, times its weight."""

MOST_SLOT_BYTES = 128 * 2**20
"""Of the hidden states in slots. More are computed in chunks of tokens: any device of a group may get all
choices of all of them, so its slots are G times what it fills if choices are even."""


def run_experts(
    compute: Compute, x_BTD: jax.Array, routing: Routing, num_experts: int, capacity: float | None
) -> jax.Array:
    """[B,T,D]: the sum of what each token's experts give.

    Args:
      num_experts: of the layer, on all devices.
      capacity: `model.expert_capacity`.
    """
    if num_groups() == 1:
        return _run_here(compute, x_BTD, routing, num_experts, _most(routing, num_experts, capacity))
    most = _most(routing, num_experts, capacity)
    if most is not None and sends_choices(routing.experts.shape, num_experts, most, num_groups()):
        return _send_choices(compute, x_BTD, routing, num_experts, most)
    return _gather_tokens(compute, x_BTD, routing, num_experts, most)


def run_own_experts(
    compute: Compute, x_BTD: jax.Array, routing: Routing, num_experts: int, capacity: float | None
) -> jax.Array:
    """[B,T,D]: this device's part of that sum, where all devices of a group have the same rows."""
    most, num_own = _most(routing, num_experts, capacity), num_experts // num_groups()
    own = routing._replace(experts=own_choices(routing.experts, num_own))
    return _run_here(compute, x_BTD, own, num_own, most)


def sends_choices(shape: tuple[int, ...], num_experts: int, capacity: int, num_devices: int) -> bool:
    """Whether to send buffers of choices, and not tokens to all: whether that sends less.

    A device has choices of this shape [B,T,k]. It sends each of its tokens to G - 1 others, and as much
    returns: (G - 1) B T vectors each way. Of its E * B * capacity slots, empty ones included, (G - 1) / G
    belong to experts of others. So buffers send less when there are fewer slots than G B T.
    """
    num_rows, num_tokens, _ = shape
    return num_experts * num_rows * capacity < num_devices * num_rows * num_tokens


def num_chunks(num_tokens: int, token_bytes: int) -> int:
    """Into how many equal chunks tokens are divided: so many that the slots of each take MOST_SLOT_BYTES or
    less.

    Args:
      token_bytes: of all slots that one token may take on a device.
    """
    needed = -(-num_tokens * token_bytes // MOST_SLOT_BYTES)
    return next(count for count in range(min(needed, num_tokens), num_tokens + 1) if num_tokens % count == 0)


def _most(routing: Routing, num_experts: int, capacity: float | None) -> int | None:
    return row_capacity(routing.experts.shape, num_experts, capacity)


def _run_here(
    compute: Compute, x_BTD: jax.Array, routing: Routing, num_experts: int, most: int | None
) -> jax.Array:
    """The sum over the experts that this device has."""
    slots = make_slots(routing.experts, num_experts, most)
    x_SD = spread(x_BTD.reshape(-1, x_BTD.shape[-1]), slots)
    y_SD = compute(x_SD, of_slots(routing.weights, slots), slots.groups)
    return collect(y_SD, slots).reshape(x_BTD.shape)


def _gather_tokens(
    compute: Compute, x_BTD: jax.Array, routing: Routing, num_experts: int, most: int | None
) -> jax.Array:
    """Each device computes what its experts give for all tokens of the group, and their sum is scattered."""
    num_own = num_experts // num_groups()

    def run(x_BTD: jax.Array, routing: Routing) -> jax.Array:
        experts, weights = (gather_rows(x) for x in routing)
        own = Routing(own_choices(experts, num_own), weights)
        return sum_rows(_run_here(compute, gather_rows(x_BTD), own, num_own, most))

    num_tokens, k = x_BTD.shape[0] * x_BTD.shape[1], routing.experts.shape[-1]
    token_bytes = num_groups() * k * x_BTD.shape[-1] * x_BTD.dtype.itemsize
    count = 1 if most is not None else num_chunks(num_tokens, token_bytes)
    if count == 1:
        return run(x_BTD, routing)
    # Without a capacity a token does not ask which row it is in.
    chunks = jax.tree.map(lambda x: x.reshape(count, 1, -1, x.shape[-1]), (x_BTD, routing))
    y_CTD = jax.lax.map(jax.checkpoint(lambda chunk: run(*chunk), prevent_cse=False), chunks)
    return y_CTD.reshape(x_BTD.shape)


def _send_choices(
    compute: Compute, x_BTD: jax.Array, routing: Routing, num_experts: int, most: int
) -> jax.Array:
    """Each device sends what it has for each expert, and gets back what the expert gives (Lepikhin et al.
    2021, section 3.2)."""
    slots = buffer_slots(routing.experts, num_experts, most)
    x_SD = spread(x_BTD.reshape(-1, x_BTD.shape[-1]), slots)
    own_SD = _to_experts(x_SD, num_experts)
    own_S = _to_experts(of_slots(routing.weights, slots), num_experts)
    y_SD = _from_experts(compute(own_SD, own_S, slots.groups), num_experts)
    return collect(y_SD, slots).reshape(x_BTD.shape)


def _to_experts(x_S: jax.Array, num_experts: int) -> jax.Array:
    """[S,...]: from the slots of all experts to those of this device's, which others have filled too."""
    num_devices, own = num_groups(), num_experts // num_groups()
    x_GES = exchange_parts(x_S).reshape(num_devices, own, -1, *x_S.shape[1:])
    return x_GES.swapaxes(0, 1).reshape(x_S.shape)


def _from_experts(x_S: jax.Array, num_experts: int) -> jax.Array:
    """The way back of `_to_experts`."""
    num_devices, own = num_groups(), num_experts // num_groups()
    x_EGS = x_S.reshape(own, num_devices, -1, *x_S.shape[1:])
    return exchange_parts(x_EGS.swapaxes(0, 1).reshape(x_S.shape))

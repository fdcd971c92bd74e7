"""What the backward pass keeps of the forward pass, asked of JAX itself: no program is compiled."""

# T tokens of a row, S tokens that an encoder reads, D model

import functools
import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from flaxmill.model.config import ModelConfig
from flaxmill.model.layer_plan import period_length
from flaxmill.model.layers.attention import prefers_blocks
from flaxmill.model.layers.expert_slots import make_slots, row_capacity
from flaxmill.model.stack import Stack

TOKENS, ENCODED = 127, 113
"""Lengths to trace with. They are prime, so that no other dimension of an array is taken for tokens."""
PERIODS = 11
"""Layers to trace, or rounds of their pattern: arrays that begin with this size are kept for each."""


class Kept(NamedTuple):
    """Bytes of one row's activations for each token, or for each pair of tokens."""

    whole: float
    """Arrays [T,D] and statistics of tokens: tensor parallelism does not split them."""
    split: float
    """Arrays over heads and hidden units, which tensor parallelism splits."""
    pairs: float
    """Arrays over pairs of tokens, which fused attention does not have."""

    def row_bytes(self, num_tokens: int, tensor: int = 1, sequence: int = 1) -> float:
        """Bytes that a device keeps of a row; `sequence`: over how many devices [T,D] is split."""
        return num_tokens * (self.whole / sequence + (self.split + num_tokens * self.pairs) / tensor)


@functools.cache
def kept_by_layer(
    model: ModelConfig,
    platform: str,
    num_tokens: int,
    crosses: bool = False,
    on_host: bool = False,
    slots: float = 1,
) -> Kept:
    """What one layer keeps for its gradient, by `model.remat`, in the memory of the device.

    Args:
      platform: cpu, gpu or tpu.
      num_tokens: of a row; fused kernels refuse some lengths.
      crosses: the layers also attend to an encoder's output.
      on_host: what it keeps in the memory of the host instead.
      slots: of experts, for each that a device alone would have.
    """
    fused = attention_is_fused(model, platform, num_tokens) and not crosses
    period = period_length(model)
    others = {"attention": "xla", "scan_layers": True, "max_positions": None, "first_attention_norm": True}
    traced = replace(model, num_layers=PERIODS * period, **others)
    num_slots = _num_slots(model, platform)
    stacked = [
        array
        for array, is_on_host in _kept_arrays(traced, platform, crosses)
        if array.shape[:1] == (PERIODS,)
        and is_on_host == on_host
        and ({TOKENS, ENCODED} & {*array.shape} or array.shape[1:2] == (num_slots,))
    ]
    kept = [Kept(0, 0, 0)]
    for array in stacked:
        factor = slots if array.shape[1] == num_slots else 1
        kept.append(Kept(*(factor * size for size in _measure(array, model.embed_dim, fused))))
    return Kept(*(sum(sizes) / period for sizes in zip(*kept, strict=True)))


def attention_is_fused(model: ModelConfig, platform: str, num_tokens: int) -> bool:
    """Whether attention runs without arrays over all pairs of tokens (model/layers/attention.py)."""
    if model.attention == "xla" or model.attention_dropout_rate or model.positions == "relative":
        return False
    if model.attention == "blocks":
        return True
    if platform == "cpu":
        return prefers_blocks(num_tokens, causal=bool(model.causal))
    if model.bidirectional_prefix:
        return False
    if platform == "tpu":
        return num_tokens % 128 == 0
    fits = model.dim_per_head % 8 == 0 and model.dim_per_head <= 128 and num_tokens % 2 == 0
    return platform == "gpu" and model.dtype == "bfloat16" and fits


def _num_slots(model: ModelConfig, platform: str) -> int | None:
    """Rows that the experts of a layer compute for TOKENS tokens; None: there are no experts."""
    if model.num_experts is None:
        return None
    choices = jax.ShapeDtypeStruct((1, TOKENS, model.experts_per_token), jnp.int32)
    with jax.sharding.use_abstract_mesh(_one_device(platform)):
        capacity = row_capacity(choices.shape, model.num_experts, model.expert_capacity)
        slots = jax.eval_shape(lambda x: make_slots(x, model.num_experts or 0, capacity), choices)
    return len(slots.tokens)


def _measure(array: jax.ShapeDtypeStruct, width: int, fused: bool) -> Kept:
    """What an array [layers, ..., T, ...] adds for one layer."""
    shape = array.shape[1:]
    num_bytes = math.prod(shape) * array.dtype.itemsize
    lengths = [size for size in shape if size in (TOKENS, ENCODED)]
    if len(lengths) > 1:
        return Kept(0, 0, 0 if fused else num_bytes / math.prod(lengths))
    if shape[-1] in (width, 1) and len(shape) <= 3:
        return Kept(num_bytes / TOKENS, 0, 0)
    return Kept(0, num_bytes / TOKENS, 0)


@functools.cache
def _kept_arrays(model: ModelConfig, platform: str, crosses: bool) -> list[tuple[jax.ShapeDtypeStruct, bool]]:
    """What the gradient of a stack keeps of one row, and whether it does so in the memory of the host."""
    documents_BS = jnp.ones((1, ENCODED), jnp.int32) if crosses else None
    on_host: list[bool] = []

    def kept(weights: Stack, x_BTD: jax.Array, encoded_BSD: jax.Array | None, places: dict[str, jax.Array]):
        keys_B = jax.random.split(jax.random.key(0), 1) if model.dropout else None
        run = lambda *given: given[0].run(given[1], places, keys_B, given[2], documents_BS)  # noqa: E731
        backward = jax.vjp(run, weights, x_BTD, encoded_BSD)[1]
        leaves = list({id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values())
        on_host[:] = [jax.typeof(leaf).memory_space == jax.memory.Space.Host for leaf in leaves]
        return leaves

    hidden = lambda length: jax.ShapeDtypeStruct((1, length, model.embed_dim), model.dtype)  # noqa: E731
    with jax.sharding.use_abstract_mesh(_one_device(platform)):
        weights = jax.eval_shape(lambda: Stack(jax.random.key(0), model, crosses=crosses))
        place = jax.ShapeDtypeStruct((1, TOKENS), jnp.int32)
        places = {"positions": place, "documents": place}
        encoded_BSD = hidden(ENCODED) if crosses else None
        arrays = jax.eval_shape(kept, weights, hidden(TOKENS), encoded_BSD, places)
        return list(zip(arrays, on_host, strict=True))


def _one_device(platform: str) -> AbstractMesh:
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    return AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)

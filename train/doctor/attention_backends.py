"""Every way to compute attention, and which of them this machine can run."""

# B batch, T tokens, N heads, K key-value heads, H head dim

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.layers.attention import block_size, xla_attention
from flaxmill.model.layers.blockwise_attention import blockwise_attention
from flaxmill.model.layers.fused_attention import (
    LANES,
    cudnn_attention,
    cudnn_refusal,
    splash_attention,
    splash_refusal,
)
from flaxmill.model.layers.visibility import Visibility
from flaxmill.sharding.local_tokens import places_in_row
from flaxmill.sharding.mesh import MeshConfig, make_mesh

SCALE = 0.25
NUM_HEADS, NUM_KEY_HEADS, HEAD_DIM = 2, 1, 64


class Case(NamedTuple):
    """Who sees whom within a document."""

    name: str
    causal: bool | tuple[bool, ...]
    """A value for each row: rows of one batch differ."""
    window: int | None = None


CAUSAL, BOTH_SIDES = Case("causal", True), Case("both sides", False)
WINDOW, BY_ROW = Case("causal window", True, 20), Case("by row", (True, False))

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, Case], jax.Array]
"""Queries [B,T,N,H], keys and values [B,T,K,H], documents [B,T], who sees whom -> [B,T,N,H]."""


class Backend(NamedTuple):
    """One way to compute attention.

    Attributes:
      option: the setting of a run that chooses it.
      num_tokens: of a row, so many that the row has several blocks.
      refusal: why it cannot run here; None: it can.
    """

    name: str
    option: str
    attend: Attend
    cases: tuple[Case, ...]
    num_tokens: int
    refusal: str | None = None


def list_backends() -> Iterator[Backend]:
    """All of them, those that cannot run here with the reason.

    Each case is a program to compile, and those with loops over blocks take longest: where a machine
    computes slowly, they have fewer.
    """
    tokens, of_kernels = 2 * block_size(), (CAUSAL, BOTH_SIDES, WINDOW)
    query = jax.ShapeDtypeStruct((2, tokens, NUM_HEADS, HEAD_DIM), compute_dtype())
    yield Backend("xla", "model.attention=xla", _xla, (*of_kernels, BY_ROW), tokens)
    yield Backend("blocks", "model.attention=blocks", _blocks, (CAUSAL, BOTH_SIDES), tokens)
    yield Backend("ring", "mesh.context", _ring, (CAUSAL, BOTH_SIDES), tokens, _ring_refusal())
    refusal = cudnn_refusal(query)  # type: ignore[arg-type]
    yield Backend("cudnn", "model.attention=cudnn", _cudnn, of_kernels, tokens, refusal)
    refusal = splash_refusal(query)  # type: ignore[arg-type]
    if refusal is not None and jax.default_backend() == "cpu":
        interpreted = functools.partial(_splash, interpret=True)
        yield Backend("splash, interpreted", "model.attention=splash", interpreted, (CAUSAL,), 2 * LANES)
    else:
        yield Backend("splash", "model.attention=splash", _splash, of_kernels, tokens, refusal)


def compute_dtype() -> jnp.dtype:
    """What runs compute in: float32 on a CPU, bfloat16 elsewhere."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def _visible(documents: jax.Array, case: Case) -> Visibility:
    causal = case.causal if isinstance(case.causal, bool) else jnp.asarray(case.causal)
    return Visibility(documents, causal, case.window)


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array, case: Case) -> jax.Array:
    return xla_attention(q, k, v, _visible(documents, case), scale=SCALE)


def _blocks(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array, case: Case) -> jax.Array:
    visible = _visible(documents, case)
    return blockwise_attention(q, k, v, visible, scale=SCALE, block=block_size())


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array, case: Case) -> jax.Array:
    return cudnn_attention(q, k, v, _visible(documents, case), scale=SCALE)


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents: jax.Array,
    case: Case,
    interpret: bool = False,
) -> jax.Array:
    return splash_attention(q, k, v, _visible(documents, case), scale=SCALE, interpret=interpret)


def _ring_refusal() -> str | None:
    return None if len(jax.devices()) > 1 else "it needs two devices, and here is one"


def _ring(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array, case: Case) -> jax.Array:
    """Two devices with half of each row."""
    mesh = make_mesh(MeshConfig(data=1, context=2), jax.devices()[:2])

    def of_part(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        visible = _visible(documents, case)._replace(places=places_in_row(q.shape[1]))
        return blockwise_attention(q, k, v, visible, scale=SCALE, block=block_size() // 2)

    split = jax.P(None, "context")
    shared = jax.shard_map(of_part, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return shared(q, k, v, documents)

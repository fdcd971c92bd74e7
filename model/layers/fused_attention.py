"""The fused attention kernels: cuDNN on GPU, splash on TPU, run by each device on its own rows and heads."""

# B batch, T tokens, N heads, K key-value heads, H head dim

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.layers.visibility import Visibility, reach
from flaxmill.sharding.local_tokens import join_parts, num_parts, own_part_of
from flaxmill.sharding.placement import zigzag_order
from flaxmill.sharding.rules import (
    ACTIVATION_RULES,
    device_kind,
    divides_work,
    is_free,
    partition_spec,
    platform,
)

LANES = 128  # lanes of a TPU's vector unit: splash works in blocks of multiples of so many tokens
SPLASH_BLOCKS = {"TPU v6": 1024, "TPU7x": 1024}
"""The largest blocks by a word of jax.Device.device_kind: these chips have more vector memory."""
LEAST_SPLASH_BLOCK = 512


def cudnn_refusal(q_BTNH: jax.Array) -> str | None:
    """Why cuDNN's fused attention cannot serve these arrays; None if it can."""
    head_dim, num_tokens = q_BTNH.shape[-1], q_BTNH.shape[1]
    if platform() != "gpu":
        return f"it needs a GPU and this is a {platform()}"
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is not None and float(capability) < 8:
        return f"it needs compute capability 8.0 (Ampere) or newer, not {capability}"
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it needs bfloat16, not {q_BTNH.dtype} (model.dtype)"
    if head_dim % 8 or head_dim > 128:
        return f"it needs a head dimension that is a multiple of 8 up to 128, not {head_dim}"
    if num_tokens % 2:
        return f"it needs an even number of tokens, not {num_tokens}"
    return None


def splash_refusal(q_BTNH: jax.Array) -> str | None:
    """Why TPU splash attention cannot serve these arrays; None if it can."""
    if platform() != "tpu":
        return f"it needs a TPU and this is a {platform()}"
    if q_BTNH.shape[1] % LANES:
        return f"it needs a multiple of {LANES} tokens, not {q_BTNH.shape[1]}"
    return None


def cudnn_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    visible: Visibility,
    *,
    scale: float,
) -> jax.Array:
    """cuDNN flash attention; documents and window go in as a bias, which cuDNN reads and never drops."""
    causal, window = visible.causal, visible.window
    assert isinstance(causal, bool), "rows of different causality are XLA's"

    def on_device(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        mask = documents[:, :, None] == documents[:, None, :]
        if window is not None:
            before, after = reach(causal, window)
            distance = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])[None, :]
            mask &= (distance <= before) & (distance >= -after)
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask[:, None], scale=scale, is_causal=causal, implementation="cudnn"
        )

    return _on_each_device(on_device, q_BTNH, k_BTKH, v_BTKH, visible.documents)


def splash_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    visible: Visibility,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """TPU splash attention with document numbers as its segment ids; `interpret` runs it without a TPU.

    Devices that share rows gather keys and values of whole rows.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    def on_device(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        k, v, key_documents = (_whole_rows(x, visible.zigzag) for x in (k, v, documents))
        kernel = _splash_kernel(visible, q.shape[1], q.shape[2], interpret)

        def one_row(
            q_TNH: jax.Array,
            k_SKH: jax.Array,
            v_SKH: jax.Array,
            documents_T: jax.Array,
            documents_S: jax.Array,
        ) -> jax.Array:
            segments = splash_attention_kernel.SegmentIds(documents_T, documents_S)
            heads_first = (x.swapaxes(0, 1) for x in (q_TNH * scale, k_SKH, v_SKH))
            mixed_NTH: Any = kernel(*heads_first, segment_ids=segments)
            return mixed_NTH.swapaxes(0, 1)

        return jax.vmap(one_row)(q, k, v, documents, key_documents)

    return _on_each_device(on_device, q_BTNH, k_BTKH, v_BTKH, visible.documents)


def _splash_kernel(visible: Visibility, num_tokens: int, num_heads: int, interpret: bool) -> Any:
    """The kernel for this device's tokens of a row, of whose keys it has all."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    size, parts = num_parts() * num_tokens, num_parts()
    causal, shape = bool(visible.causal), (size, size)
    mask: Any = splash_attention_mask.CausalMask(shape) if causal else None
    if visible.window is not None:
        mask = splash_attention_mask.LocalMask(shape, reach(causal, visible.window), 0)
    if mask is None:  # it is the same for all tokens
        mask, parts = splash_attention_mask.FullMask((num_tokens, size)), 1
    if visible.zigzag:
        assert causal, "only causal rows are in zigzag"
        mask.q_sequence = zigzag_order(size, parts)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * num_heads),
        head_shards=1,
        q_seq_shards=parts,
        block_sizes=_splash_blocks(num_tokens),
        interpret=interpret,
    )
    if parts == 1:
        return kernel

    def of_device(info: Any) -> Any:
        rows_of_blocks = {name: getattr(info, name) for name in ("data_next", "mask_next", "block_mask")}
        own = {name: x if x is None else own_part_of(x, 1) for name, x in rows_of_blocks.items()}
        places = info.q_sequence if info.q_sequence is None else own_part_of(info.q_sequence, 0)
        return info._replace(**own, q_sequence=places)

    infos = (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
    return splash_attention_kernel.SplashAttentionKernel(*map(of_device, infos), **kernel.kwargs)


def _whole_rows(x_BT: jax.Array, zigzag: bool) -> jax.Array:
    """The tokens of all devices that share the rows, in order."""
    x_BT = join_parts(x_BT)
    if not zigzag:
        return x_BT
    # By chunks, which are moved as they are.
    chunks = x_BT.reshape(len(x_BT), 2 * num_parts(), -1, *x_BT.shape[2:])
    order = np.argsort(zigzag_order(2 * num_parts(), num_parts()))
    return jnp.concatenate([chunks[:, place] for place in order], axis=1)


def _splash_blocks(num_tokens: int) -> Any:
    """Blocks of queries and keys as large as they divide the row and fit the chip's vector memory: with
    splash's own, of 128, most of the time goes into starting them."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    most = next((size for kind, size in SPLASH_BLOCKS.items() if kind in device_kind()), LEAST_SPLASH_BLOCK)
    sizes = range(LANES, min(most, num_tokens) + 1, LANES)
    block = max(size for size in sizes if num_tokens % size == 0)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash_attention_kernel.BlockSizes(
        **dict.fromkeys(names, block), block_kv_compute=block, block_kv_dkv_compute=block
    )


def _on_each_device(attend: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Run on local rows and heads: the partitioner cannot see into the kernels and would gather for them."""
    mesh = jax.sharding.get_abstract_mesh()
    if not divides_work(mesh):
        return attend(*arrays)
    heads = partition_spec(("batch", "tokens", "heads", None), ACTIVATION_RULES, mesh)
    documents = partition_spec(("batch", "tokens"), ACTIVATION_RULES, mesh)
    specs = (heads, heads, heads, documents)
    free = {name for name in mesh.shape if is_free(name, mesh)}
    # check_vma=False: Pallas and cuDNN calls carry no replication types.
    run = jax.shard_map(attend, in_specs=specs, out_specs=heads, axis_names=free, check_vma=False)
    return run(*arrays)

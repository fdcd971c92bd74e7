"""LoRA adapters: adds them to a base model, and merges them into its weights."""

# L layers, I flattened input dims, R rank, O flattened output dims

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, init_params, logical_axes
from flaxmill.model.layers.lora import LORA_A, LORA_B, is_adapter, without_lora
from flaxmill.model.params import Params, flatten, group_of, unflatten
from flaxmill.sharding.rules import parameter_sharding


def with_fresh_adapters(
    config: ModelConfig, params: Params, key: jax.Array, mesh: Mesh | None = None
) -> Params:
    """Adds the adapters of `config` to params of its base model; they change nothing yet.

    Args:
      params: of the base model, `without_lora(config)`.
      key: draws the adapters, as `init_params` does; nothing else is computed.
      mesh: where the adapters are placed.
    """
    assert config.lora_rank is not None
    paths = [path for path in flatten(abstract_params(config)) if is_adapter(path)]

    def draw(key: jax.Array) -> dict[Any, jax.Array]:
        flat = flatten(init_params(config, key))
        return {"/".join(path): flat[path] for path in paths}

    shardings = None
    if mesh is not None:
        axes, shapes = flatten(logical_axes(config)), flatten(abstract_params(config))
        shardings = {
            "/".join(path): parameter_sharding(mesh, axes[path], shapes[path].shape) for path in paths
        }
    drawn = jax.jit(draw, out_shardings=shardings)(key)
    return unflatten(flatten(params) | {path: drawn["/".join(path)] for path in paths})


def merge_lora(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """The base model's config, and params with each adapter merged into its kernel: the same function.

    Without LoRA both are returned as they are. Arrays stay on their devices.
    """
    if config.lora_rank is None:
        return config, params
    scale = config.lora_alpha / config.lora_rank
    flat = flatten(params)
    merged = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    for path in [path for path in flat if path[-1] == LORA_A]:
        kernel, b = (*path[:-1], "kernel"), (*path[:-1], LORA_B)
        add = _add_to_layers if group_of(path) else _add
        merged[kernel] = jax.jit(add)(flat[kernel], flat[path], flat[b], scale)
    return without_lora(config), unflatten(merged)


def _add_to_layers(kernel_LIO: jax.Array, a_LIR: jax.Array, b_LRO: jax.Array, scale: float) -> jax.Array:
    return jax.vmap(_add, (0, 0, 0, None))(kernel_LIO, a_LIR, b_LRO, scale)


def _add(kernel_IO: jax.Array, a_IR: jax.Array, b_RO: jax.Array, scale: float) -> jax.Array:
    return kernel_IO + scale * jnp.tensordot(a_IR, b_RO, 1, precision="highest")

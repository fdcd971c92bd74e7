"""The weights of a model as decoding reads them: layers apart, each matrix once, in fewer bits if asked."""

# B batch, T tokens, D model, V vocab, L layers of a group

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_checks import require
from flaxmill.model.functional import bind
from flaxmill.model.generation.config import WeightType
from flaxmill.model.layer import Layer
from flaxmill.model.layer_plan import LAYER_GROUPS, layer_slots
from flaxmill.model.layers.dense import Dense, is_narrow, narrow_product
from flaxmill.model.layers.initializers import Parameter
from flaxmill.model.params import Params
from flaxmill.model.row_product import as_bfloat16, as_bits
from flaxmill.model.transformer import Transformer
from flaxmill.sharding.rules import platform

_MATRICES = ("kernel", "embedding", "lora_a", "lora_b")
_NARROW = ("bfloat16", "int8")
_MOST = 127  # the largest int8 that has a negative


class Columns(nnx.Module):
    """A narrow output matrix as the product with it reads it: [D,V], a column for each token."""

    def __init__(self, table_VD: jax.Array, weights: str) -> None:
        columns_DV, scale_V = _narrowed(table_VD.T, weights, 1)
        self.columns = nnx.Param(columns_DV)
        self.scale = None if scale_V is None else nnx.Param(scale_V)

    def __call__(self, ids_BT: jax.Array, dtype: str) -> jax.Array:
        """[B,T,D]: the vectors of tokens, where the embedding is tied to the output."""
        vectors_BTD = as_bfloat16(jnp.moveaxis(self.columns[...][:, ids_BT], 0, -1))
        if self.scale is not None:
            vectors_BTD = vectors_BTD * self.scale[...][ids_BT][..., None]
        return vectors_BTD.astype(dtype)

    def products(self, x_BD: jax.Array) -> jax.Array:
        """float32 [B,V]: the product of each row with every token's vector."""
        return narrow_product(x_BD, self.columns[...], None if self.scale is None else self.scale[...])


class UnrolledModel(NamedTuple):
    """A model without its layers, and its layers one by one.

    Slicing a layer from a stack would copy it at every token, which costs reading the weights twice more.
    """

    body: Transformer
    layers: tuple[Layer, ...]
    columns: Columns | None
    """On one CPU device, if it is narrow: the output matrix. Else it stays a table, [V,D]."""


def check_weights(config: ModelConfig, weights: WeightType | None) -> None:
    """Raises ValueError where the model or the devices cannot decode with such weights."""
    if weights != "int8":
        return
    require(
        _is_one_cpu(),
        "weights=int8 is for one CPU device, for which its products are made; choose bfloat16, or compute on "
        "one device with JAX_PLATFORMS=cpu",
    )
    require(
        config.num_experts is None,
        f"weights=int8 is not for experts (model.num_experts={config.num_experts}); choose bfloat16",
    )


def unroll(
    config: ModelConfig, params: Params, weights: WeightType | None = None, *, frees: bool = False
) -> UnrolledModel:
    """The model for decoding.

    Args:
      weights: how matrices are kept; None: in the model's compute dtype. With int8 the products of layers and
        output are computed from int8 weights with a scale for each output, and activations in bfloat16; an
        encoder and embeddings that are not tied are kept in bfloat16.
      frees: delete each array of `params` once it is laid out, so that there is one copy of the weights.

    Raises ValueError as `check_weights` does.
    """
    check_weights(config, weights)
    kind = config.dtype if weights is None else weights
    # No expert_capacity: else what a row generates would depend on its length.
    config = replace(config, dtype="bfloat16" if kind == "int8" else kind, expert_capacity=None)
    body, packs = bind(config, params), _is_one_cpu()
    stacks = {name: getattr(body, name) for name in LAYER_GROUPS}
    layers: dict[str, list[Layer]] = {}
    for name, stack in stacks.items():
        setattr(body, name, None)
        if stack is not None:
            if packs:
                _lay_out_products(stack, kind, frees)
            layers[name] = _split(stack, config.dtype, frees)
    columns = _take_columns(body, kind, frees) if packs and kind in _NARROW else None
    body = jax.tree_util.tree_map_with_path(functools.partial(_cast, config.dtype, frees), body)
    return UnrolledModel(body, tuple(layers[group][index] for group, index in layer_slots(config)), columns)


def describe_unrolled(
    config: ModelConfig, params: Params, weights: WeightType | None = None
) -> UnrolledModel:
    """Shapes, dtypes and shardings of what `unroll` gives for such params on one device."""
    sharding = jax.tree.leaves(params)[0].sharding
    whole = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    shapes = jax.eval_shape(lambda given: unroll(config, given, weights), params)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes)


def _is_one_cpu() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return platform() == "cpu" and (mesh.empty or mesh.size == 1)


def _lay_out_products(stack: Layer, weights: str, frees: bool) -> None:
    """Lay out the kernels [L,...] of stacked products for `narrow_product` or `few_rows_product`."""
    for _, module in nnx.iter_modules(stack):
        if isinstance(module, Dense):
            whole = module.kernel[...]
            if weights in _NARROW:
                kernel, scale = _narrowed(whole, weights, module.num_in, num_first=1)
                module.kernel_scale = None if scale is None else Parameter(scale)
            else:
                kernel, module.by_outputs = _by_outputs(whole, module.num_in), True
            module.kernel = Parameter(kernel)
            _free(whole, frees)


def _split(stack: Layer, dtype: str, frees: bool) -> list[Layer]:
    """The layers of a stack, one by one."""
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(stack)
    pieces = []
    for path, leaf in paths_and_leaves:
        wanted = _dtype_of(dtype, path, leaf)
        pieces.append([_slice(leaf, index, wanted) for index in range(len(leaf))])
        _free(leaf, frees)
    return [structure.unflatten(parts) for parts in zip(*pieces, strict=True)]


def _take_columns(body: Transformer, weights: str, frees: bool) -> Columns:
    """The output matrix, narrow, which leaves the body."""
    table_VD, own = body.output_table()[0], body.lm_head
    columns = _make_columns(table_VD, weights)
    if own is None or own.kernel is None:
        body.embed.tokens = columns
    else:
        own.kernel = None
    _free(table_VD, frees)
    return columns


@functools.partial(jax.jit, static_argnames="weights")
def _make_columns(table_VD: jax.Array, weights: str) -> Columns:
    return Columns(table_VD, weights)


@functools.partial(jax.jit, static_argnames="num_in")
def _by_outputs(w: jax.Array, num_in: int) -> jax.Array:
    """[L, *out, *in] from [L, *in, *out]."""
    return jnp.moveaxis(w, range(1, 1 + num_in), range(-num_in, 0))


@functools.partial(jax.jit, static_argnames=("weights", "num_in", "num_first"))
def _narrowed(
    w: jax.Array, weights: str, num_in: int, num_first: int = 0
) -> tuple[jax.Array, jax.Array | None]:
    """Weights as `narrow_product` takes them, and the scales of int8: each output's largest becomes 127.

    Args:
      w: [*first, *in, *out], of which `num_first` and `num_in` dimensions are first and in.
    """
    if weights == "bfloat16":
        return as_bits(w), None
    inputs = tuple(range(num_first, num_first + num_in))
    largest = jnp.abs(w).max(inputs, keepdims=True)
    scale = jnp.where(largest > 0, largest / _MOST, 1.0)
    return jnp.round(w / scale).astype(jnp.int8), scale.squeeze(inputs)


@functools.partial(jax.jit, static_argnames="dtype")
def _slice(leaf: jax.Array, index: int, dtype: str) -> jax.Array:
    return leaf[index].astype(dtype)


def _cast(dtype: str, frees: bool, path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    wanted = _dtype_of(dtype, path, leaf)
    if leaf.dtype == wanted:
        return leaf
    cast = leaf.astype(wanted)
    _free(leaf, frees)
    return cast


def _dtype_of(dtype: str, path: tuple[Any, ...], leaf: jax.Array) -> str:
    """Matrices are cast once, not at every token; norms and biases, computed in float32, stay float32."""
    names = {jax.tree_util.keystr((entry,), simple=True) for entry in path}
    is_wide = names & {"relative_bias", "router"}
    is_matrix = names & set(_MATRICES) and not is_wide and not is_narrow(leaf)
    return dtype if is_matrix else leaf.dtype.name


def _free(leaf: jax.Array, frees: bool) -> None:
    if frees and isinstance(leaf, jax.Array):
        leaf.delete()

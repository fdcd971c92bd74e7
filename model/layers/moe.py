"""Experts in place of an MLP: a few compute each token, as the router chooses (Shazeer et al. 2017)."""

# B batch, T tokens, M = B*T, D model, F width of an expert, E experts, k choices of a token, S slots,
# N blocks, R slots of a block

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.expert_exchange import run_experts, run_own_experts
from flaxmill.model.layers.expert_slots import Groups
from flaxmill.model.layers.initializers import Initializer, kernel_initializer, make_parameter
from flaxmill.model.layers.mlp import MLP, activation
from flaxmill.model.layers.router import Router, Routing, RoutingSums
from flaxmill.sharding.local_experts import num_groups
from flaxmill.sharding.local_rows import gradient_dtype, scatter
from flaxmill.sharding.open_weights import operand
from flaxmill.sharding.rules import (
    ACTIVATION_RULES,
    PARAMETER_RULES,
    LogicalAxes,
    constrain,
    divides_work,
    is_free,
    mesh_axes,
    num_shards,
    partition_spec,
    platform,
)

WIDEN = ("experts", "embed", "expert_mlp")
NARROW = ("experts", "expert_mlp", "embed")
_AXES = {"up": WIDEN, "gate": WIDEN, "down": NARROW}


class Expert(nnx.Module):
    """The matrices of one projection, of all experts: [E, in, out] in float32."""

    def __init__(
        self, key: jax.Array, num_experts: int, sizes: tuple[int, int], axes: LogicalAxes, make: Initializer
    ) -> None:
        draw = jax.vmap(lambda key: make(key, sizes, 1))
        self.kernel = make_parameter(draw(jax.random.split(key, num_experts)), tuple(axes))


class MixtureOfExperts(nnx.Module):
    """sum over a token's experts of weight * down(act(gate(x)) * up(x)), and shared experts beside them."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        assert config.num_experts is not None
        self.config = config
        keys = jax.random.split(key, 5)
        wide, narrow = (
            (config.embed_dim, config.expert_hidden_dim),
            (config.expert_hidden_dim, config.embed_dim),
        )
        make, make_down = kernel_initializer(config), kernel_initializer(config, residual=True)
        self.router = Router(keys[0], config)
        self.up = Expert(keys[1], config.num_experts, wide, WIDEN, make)
        self.gate = Expert(keys[2], config.num_experts, wide, WIDEN, make) if config.gated_mlp else None
        self.down = Expert(keys[3], config.num_experts, narrow, NARROW, make_down)
        shared_dim = config.shared_experts * config.expert_hidden_dim
        self.shared = MLP(keys[4], config, shared_dim) if shared_dim else None

    def __call__(self, x_BTD: jax.Array, is_real_BT: jax.Array) -> tuple[jax.Array, RoutingSums]:
        """What is added to hidden states [B,T,D], at padding by shared experts alone; and routing sums."""
        routing, sums = self.router(x_BTD, is_real_BT)
        with jax.named_scope("experts"):
            y_BTD = self._routed(x_BTD, routing)
        y_BTD = y_BTD if self.shared is None else y_BTD + self.shared(x_BTD)
        return checkpoint_name(y_BTD, "mlp_output"), sums

    def _routed(self, x_BTD: jax.Array, routing: Routing) -> jax.Array:
        shards = {"up": self.up.kernel[...], "down": self.down.kernel[...]}
        shards |= {} if self.gate is None else {"gate": self.gate.kernel[...]}
        operands = {name: operand(shard, _AXES[name], x_BTD.dtype) for name, shard in shards.items()}
        given = {name: _Shards(weight.whole, weight.receiver) for name, weight in operands.items()}
        axes = {name: weight.axes for name, weight in operands.items()}
        run = functools.partial(_run, self.config, x_BTD.dtype, axes)
        return _on_devices(run, x_BTD, routing, given).astype(x_BTD.dtype)


class Kernel(NamedTuple):
    """The matrices of one projection as its products need them, of the device's own experts."""

    whole: jax.Array
    """In the compute dtype, and whole along the model's width. It takes no gradient."""
    gradient: jax.Array
    """Zeros like `whole`, which take its gradient in the dtype that is sent. Products do not read them."""


class _Shards(NamedTuple):
    """A projection on its way into the program of a device."""

    whole: jax.Array
    receiver: jax.Array
    """What a device holds of the parameter, or what stands for it."""


def _on_devices(
    run: Callable[..., jax.Array], x_BTD: jax.Array, routing: Routing, shards: dict[str, _Shards]
) -> jax.Array:
    """`run` on the rows of each device, with its hidden units of its experts; their sum over hidden units.

    Products of groups are not left to the compiler, which would not know how to divide them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not divides_work(mesh):
        return run(x_BTD, routing, shards)
    free = {name for name in mesh.shape if is_free(name, mesh)}
    rows = partition_spec(("batch", "tokens", None), ACTIVATION_RULES, mesh)
    parts_over = _names("expert_mlp", mesh)
    if len(x_BTD) % num_shards(rows[0], mesh):  # all devices have all rows
        rows, parts_over = PartitionSpec(None, *rows[1:]), parts_over + _names("experts", mesh)
        run = functools.partial(run, same_rows=True)
    specs_of: Any = _Shards  # a tree of specs has the form of its arrays
    of_shards = {
        name: specs_of(
            PartitionSpec(*(None if axis == "embed" else _names(axis, mesh) for axis in _AXES[name])),
            partition_spec(_AXES[name], PARAMETER_RULES, mesh),
        )
        for name in shards
    }
    # The gradient of x is summed over hidden units in its dtype, which XLA:CPU cannot do in bfloat16.
    wide_BTD = x_BTD.astype(sum_dtype(x_BTD)) if platform() == "cpu" else x_BTD
    of_parts = jax.shard_map(
        lambda *given: run(*given)[None].astype(wide_BTD.dtype),
        in_specs=(rows, rows, of_shards),
        out_specs=PartitionSpec(parts_over, *rows),
        axis_names=free,
        check_vma=False,  # the parts are summed below
    )
    parts = of_parts(wide_BTD, routing, shards)
    # Unlike `sum`, this stays in the dtype of the parts, in which devices then send them.
    y_BTD = jax.lax.reduce(parts, np.zeros((), parts.dtype), jax.lax.add, (0,))
    return constrain(y_BTD, "batch", "tokens", None)


def _names(axis: str, mesh: AbstractMesh) -> tuple[str, ...]:
    """The mesh axes that the compiler splits a parameter's dimension along."""
    name = mesh_axes(axis, PARAMETER_RULES, mesh)
    assert name is None or isinstance(name, str)
    return () if name is None else (name,)


def _run(
    config: ModelConfig,
    dtype: jnp.dtype,
    axes: Mapping[str, LogicalAxes],
    x_BTD: jax.Array,
    routing: Routing,
    shards: dict[str, _Shards],
    same_rows: bool = False,
) -> jax.Array:
    """[B,T,D]: the weighted sum of the outputs of each token's experts; `same_rows`: of the device's own.

    Args:
      axes: those along which gradients are scattered.
    """
    assert config.num_experts is not None
    run = run_own_experts if same_rows and num_groups() > 1 else run_experts
    kernels = {
        name: Kernel(whole, _take_gradient(_Static(axes[name], receiver.dtype), whole, receiver))
        for name, (whole, receiver) in shards.items()
    }
    compute = functools.partial(_compute, activation(config.activation), kernels)
    return run(compute, x_BTD.astype(dtype), routing, config.num_experts, config.expert_capacity)


def _compute(
    act: Callable[[jax.Array], jax.Array],
    kernels: dict[str, Kernel],
    x_SD: jax.Array,
    weights_S: jax.Array,
    groups: Groups,
) -> jax.Array:
    """[S,D]: the weighted output of each slot's expert."""
    up_SF = checkpoint_name(_product(x_SD, groups, *kernels["up"]), "mlp_up")
    if "gate" in kernels:
        gate_SF = checkpoint_name(_product(x_SD, groups, *kernels["gate"]), "mlp_gate")
        hidden_SF = act(gate_SF) * up_SF
    else:
        hidden_SF = act(up_SF)
    # Weighted before the last product, so that its result need not be kept for the weights' gradient.
    hidden_SF = checkpoint_name((hidden_SF * weights_S[:, None]).astype(x_SD.dtype), "mlp_hidden")
    return _product(hidden_SF, groups, *kernels["down"])


class _Static(NamedTuple):
    axes: LogicalAxes
    parameter_dtype: np.dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take_gradient(static: _Static, whole_EDF: jax.Array, shard: jax.Array) -> jax.Array:
    """Zeros whose gradient goes to the shard: once, where products are repeated in chunks."""
    del static, shard
    return jnp.zeros(whole_EDF.shape, gradient_dtype(whole_EDF))


def _take_gradient_forward(static: _Static, whole_EDF: jax.Array, shard: jax.Array):
    return _take_gradient(static, whole_EDF, shard), whole_EDF


def _take_gradient_backward(static: _Static, whole_EDF: jax.Array, dw_EDF: jax.Array):
    return jnp.zeros_like(whole_EDF), scatter(dw_EDF, static.axes).astype(static.parameter_dtype)


_take_gradient.defvjp(_take_gradient_forward, _take_gradient_backward)


@jax.custom_vjp
def _product(x_SD: jax.Array, groups: Groups, whole_EDF: jax.Array, gradient_EDF: jax.Array) -> jax.Array:
    """[S,F]: each slot times the matrix of its expert. Slots after the last group hold anything."""
    del gradient_EDF  # is here to take the gradient
    return _multiply(x_SD, whole_EDF, groups)


def _product_forward(x_SD: jax.Array, groups: Groups, whole_EDF: jax.Array, gradient_EDF: jax.Array):
    return _product(x_SD, groups, whole_EDF, gradient_EDF), (x_SD, groups, whole_EDF)


def _product_backward(saved: tuple[jax.Array, Groups, jax.Array], g_SF: jax.Array):
    x_SD, groups, whole_EDF = saved
    dx_SD = _multiply(g_SF, whole_EDF.swapaxes(1, 2), groups)
    dw_EDF = _multiply_transposed(x_SD, g_SF, groups, len(whole_EDF), gradient_dtype(x_SD))
    return dx_SD, None, jnp.zeros_like(whole_EDF), dw_EDF


_product.defvjp(_product_forward, _product_backward)


def _multiply(x_SD: jax.Array, w_EDF: jax.Array, groups: Groups) -> jax.Array:
    if groups.sizes is not None:
        return jax.lax.ragged_dot(x_SD, w_EDF, groups.sizes)
    w_NDF = w_EDF if groups.experts is None else w_EDF[groups.experts]
    x_NRD = x_SD.reshape(len(w_NDF), -1, x_SD.shape[-1])
    return jnp.einsum("NRD,NDF->NRF", x_NRD, w_NDF).reshape(len(x_SD), -1)


def _multiply_transposed(
    x_SD: jax.Array, g_SF: jax.Array, groups: Groups, num_experts: int, dtype: np.dtype
) -> jax.Array:
    """[E,D,F]: the sum over an expert's slots of x times g."""
    if groups.sizes is not None:
        return jax.lax.ragged_dot_general(x_SD, g_SF, groups.sizes, _OVER_SLOTS, preferred_element_type=dtype)
    num_blocks = num_experts if groups.experts is None else len(groups.experts)
    x_NRD, g_NRF = (x.reshape(num_blocks, -1, x.shape[-1]) for x in (x_SD, g_SF))
    dw_NDF = jnp.einsum("NRD,NRF->NDF", x_NRD, g_NRF, preferred_element_type=dtype)
    if groups.experts is None:
        return dw_NDF
    return jax.ops.segment_sum(dw_NDF, groups.experts, num_experts, indices_are_sorted=True)


_OVER_SLOTS = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=(0,), rhs_group_dimensions=()
)

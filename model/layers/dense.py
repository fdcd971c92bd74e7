"""The one matrix product: initialiser, logical axes, compute dtype and, on CPU, a faster gradient."""

# M flattened leading dims, K flattened input dims, F flattened output dims, R rank

import math

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import Initializer, Parameter, make_parameter, uniform_by_fan_in
from flaxmill.model.layers.lora import Lora
from flaxmill.sharding.rules import platform


class Dense(nnx.Module):
    """y = x @ kernel + bias over the last `len(in_dims)` dimensions of x.

    kernel is [*in_dims, *out_dims], bias [*out_dims]; both are float32 and computed in the dtype of x.
    With `lora` it is x @ kernel + scale * (x @ lora_a) @ lora_b (Hu et al. 2021). That starts as the
    same function as without LoRA: lora_b is zero.
    """

    def __init__(
        self,
        key: jax.Array,
        in_dims: tuple[int, ...],
        out_dims: tuple[int, ...],
        axes: tuple[str, ...],
        initializer: Initializer,
        use_bias: bool,
        lora: Lora | None = None,
    ) -> None:
        self.num_in = len(in_dims)
        self.kernel = make_parameter(initializer(key, in_dims + out_dims, self.num_in), axes)
        # A vector is not worth a gather at every use: biases over the model's width stay whole.
        bias_axes = tuple("features" if axis == "embed" else axis for axis in axes[self.num_in :])
        self.bias = make_parameter(jnp.zeros(out_dims), bias_axes) if use_bias else None
        self.lora_scale = lora.scale if lora else 0.0
        made = (None, None) if lora is None else _make_factors(key, in_dims, out_dims, axes, lora.rank)
        self.lora_a, self.lora_b = made

    def __call__(self, x: jax.Array) -> jax.Array:
        y = dense(x, self.kernel[...].astype(x.dtype), self.num_in)
        if self.lora_a is not None and self.lora_b is not None:
            narrow_R = dense(x, self.lora_a[...].astype(x.dtype), self.num_in)
            y += self.lora_scale * dense(narrow_R, self.lora_b[...].astype(x.dtype))
        # Added in float32, so that the bias's gradient, a sum over all tokens, is in float32 too.
        return y if self.bias is None else (y.astype(sum_dtype(y)) + self.bias[...]).astype(x.dtype)


def _make_factors(
    key: jax.Array, in_dims: tuple[int, ...], out_dims: tuple[int, ...], axes: tuple[str, ...], rank: int
) -> tuple[Parameter, Parameter]:
    num_in = len(in_dims)
    # A separate key, so that the kernel's values are the same with and without LoRA.
    a = uniform_by_fan_in(jax.random.fold_in(key, 1), (*in_dims, rank), num_in)
    b = jnp.zeros((rank, *out_dims))
    return make_parameter(a, (*axes[:num_in], "features")), make_parameter(b, ("features", *axes[num_in:]))


def dense(x: jax.Array, kernel: jax.Array, num_in: int = 1) -> jax.Array:
    """Contract the last `num_in` dimensions of x with the first of the kernel.

    On CPU the gradient is written out as dw = x^T g and dx = g w^T: JAX's own transpose makes XLA:CPU
    write the incoming gradient through a transposed fusion, at twice the time
    (benchmarks/dense_gradient.py). Elsewhere it is JAX's own, which also splits better over devices.
    """
    out_shape = x.shape[: x.ndim - num_in] + kernel.shape[num_in:]
    if platform() != "cpu":
        return jnp.tensordot(x, kernel, num_in)
    num_inputs = math.prod(kernel.shape[:num_in])
    y_MF = _matmul(x.reshape(-1, num_inputs), kernel.reshape(num_inputs, -1))
    return y_MF.reshape(out_shape)


@jax.custom_vjp
def _matmul(x_MK: jax.Array, w_KF: jax.Array) -> jax.Array:
    return x_MK @ w_KF


def _matmul_forward(x_MK: jax.Array, w_KF: jax.Array):
    return x_MK @ w_KF, (x_MK, w_KF)


def _matmul_backward(saved: tuple[jax.Array, jax.Array], g_MF: jax.Array):
    x_MK, w_KF = saved
    dx_MK = jax.lax.dot_general(g_MF, w_KF, (((1,), (1,)), ((), ())))
    dw_KF = jax.lax.dot_general(x_MK, g_MF, (((0,), (0,)), ((), ())))
    return dx_MK, dw_KF


_matmul.defvjp(_matmul_forward, _matmul_backward)

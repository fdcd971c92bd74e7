"""The one matrix product: initialiser, logical axes, compute dtype, and its gradient."""

# M flattened leading dims, K flattened input dims, F flattened output dims, R rank

import functools
import math
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import Initializer, Parameter, make_parameter, uniform_by_fan_in
from flaxmill.model.layers.lora import Lora
from flaxmill.model.row_product import as_bfloat16, fits_row_product, row_product
from flaxmill.sharding.local_rows import gradient_dtype, scatter
from flaxmill.sharding.open_weights import OpenWeight, operand
from flaxmill.sharding.rules import LogicalAxes, platform

_MUCH_WIDER = 8
"""From so many times as many inputs as outputs on, the outputs are what is cheaper to transpose."""
NARROW = "features"  # the dimension between the factors of an adapter


class Dense(nnx.Module):
    """y = x @ kernel + bias over the last `len(in_dims)` dimensions of x.

    kernel is [*in_dims, *out_dims], bias [*out_dims]; both are float32 and computed in the dtype of x.
    With `lora` it is x @ kernel + scale * (x @ lora_a) @ lora_b (Hu et al. 2021). That starts as the
    same function as without LoRA: lora_b is zero.

    For decoding the kernel may be narrow, as `narrow_product` takes it, or laid out `by_outputs`, as
    `few_rows_product` does.
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
        self.num_in, self.axes, self.by_outputs = len(in_dims), axes, False
        self.kernel = make_parameter(initializer(key, in_dims + out_dims, self.num_in), axes)
        # A vector is not worth a gather at every use: biases over the model's width stay whole.
        bias_axes = tuple("features" if axis == "embed" else axis for axis in axes[self.num_in :])
        self.bias = make_parameter(jnp.zeros(out_dims), bias_axes) if use_bias else None
        self.kernel_scale: Parameter | None = nnx.data(None)
        self.lora_scale = lora.scale if lora else 0.0
        made = (None, None) if lora is None else _make_factors(key, in_dims, out_dims, axes, lora.rank)
        self.lora_a, self.lora_b = made

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self._multiply(x)
        if self.lora_a is not None and self.lora_b is not None:
            narrow_R = dense(x, self.lora_a[...], (*self.axes[: self.num_in], NARROW), self.num_in)
            y += self.lora_scale * dense(narrow_R, self.lora_b[...], (NARROW, *self.axes[self.num_in :]))
        # Added in float32, so that the bias's gradient, a sum over all tokens, is in float32 too.
        return y if self.bias is None else (y.astype(sum_dtype(y)) + self.bias[...]).astype(x.dtype)

    def _multiply(self, x: jax.Array) -> jax.Array:
        kernel, num_in = self.kernel[...], self.num_in
        if not is_narrow(kernel) and not self.by_outputs:
            return dense(x, kernel, self.axes, num_in)
        if self.by_outputs:
            out_dims = kernel.shape[: kernel.ndim - num_in]
            y_MF = few_rows_product(_flat(x, num_in), kernel.reshape(math.prod(out_dims), -1))
        else:
            out_dims = kernel.shape[num_in:]
            scale = None if self.kernel_scale is None else self.kernel_scale[...].ravel()
            y_MF = narrow_product(_flat(x, num_in), kernel, scale)
        return y_MF.reshape(x.shape[: x.ndim - num_in] + out_dims).astype(x.dtype)


def _make_factors(
    key: jax.Array, in_dims: tuple[int, ...], out_dims: tuple[int, ...], axes: tuple[str, ...], rank: int
) -> tuple[Parameter, Parameter]:
    num_in = len(in_dims)
    # A separate key, so that the kernel's values are the same with and without LoRA.
    a = uniform_by_fan_in(jax.random.fold_in(key, 1), (*in_dims, rank), num_in)
    b = jnp.zeros((rank, *out_dims))
    return make_parameter(a, (*axes[:num_in], NARROW)), make_parameter(b, (NARROW, *axes[num_in:]))


def dense(x: jax.Array, kernel: jax.Array | OpenWeight, axes: LogicalAxes, num_in: int = 1) -> jax.Array:
    """Contract the last `num_in` dimensions of x with the first of the kernel, in the dtype of x.

    The kernel is what this device holds of it: it is cast first and gathered then (`local_rows.py`), and its
    gradient is given back in the dtype of `gradients_sent_as`, float32 unless told otherwise. Or it is open
    already.
    """
    weight = operand(kernel, axes, x.dtype)
    static = _Static(weight.axes, num_in, weight.receiver.dtype)
    return _product(static, x, weight.whole, weight.receiver)


class _Static(NamedTuple):
    axes: LogicalAxes
    num_in: int
    parameter_dtype: np.dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(static: _Static, x: jax.Array, whole: jax.Array, shard: jax.Array) -> jax.Array:
    del shard  # is here for its gradient
    num_in = static.num_in
    if platform() != "cpu":
        return jnp.tensordot(x, whole, num_in)
    x_MK, w_KF = _flat(x, num_in), _flat_kernel(whole, num_in)
    return product(x_MK, w_KF, 1, 0).reshape(x.shape[: x.ndim - num_in] + whole.shape[num_in:])


def _product_forward(static: _Static, x: jax.Array, whole: jax.Array, shard: jax.Array):
    return _product(static, x, whole, shard), (x, whole)


def _product_backward(static: _Static, saved: tuple[jax.Array, ...], g: jax.Array):
    """On CPU the gradient is written out on flattened matrices as dw = x^T g and dx = g w^T: JAX's own
    transpose makes XLA:CPU write the incoming gradient through a transposed fusion, at twice the time
    (benchmarks/dense_gradient.py). Elsewhere dimensions stay apart, which also splits better over devices.
    """
    axes, num_in, parameter_dtype = static
    x, whole = saved
    dtype = gradient_dtype(x)
    if platform() == "cpu":
        num_out = whole.ndim - num_in
        x_MK, g_MF, w_KF = _flat(x, num_in), _flat(g, num_out), _flat_kernel(whole, num_in)
        dx = product(g_MF, w_KF, 1, 1).reshape(x.shape)
        dw = sum_over_rows(x_MK, g_MF, dtype).reshape(whole.shape)
    else:
        rows, outs = tuple(range(x.ndim - num_in)), range(num_in, whole.ndim)
        of_g = tuple(range(len(rows), g.ndim))
        dx = jax.lax.dot_general(g, whole, ((of_g, tuple(outs)), ((), ())))
        dw = jax.lax.dot_general(x, g, ((rows, rows), ((), ())), preferred_element_type=dtype)
    return dx, jnp.zeros_like(whole), scatter(dw, axes).astype(parameter_dtype)


_product.defvjp(_product_forward, _product_backward)


def product(x: jax.Array, y: jax.Array, of_x: int, of_y: int) -> jax.Array:
    """The product of matrices, contracted over these dimensions of them, in the dtype of x."""
    dims = (((of_x,), (of_y,)), ((), ()))
    if platform() != "cpu" or x.dtype == sum_dtype(x):
        return jax.lax.dot_general(x, y, dims)
    return _summed_in_float32(x, y, dims).astype(x.dtype)


def is_narrow(kernel: jax.Array | OpenWeight) -> TypeGuard[jax.Array]:
    """Whether a kernel is laid out for `narrow_product`."""
    return not isinstance(kernel, OpenWeight) and jnp.issubdtype(kernel.dtype, jnp.integer)


def narrow_product(x_MK: jax.Array, kernel: jax.Array, scale_F: jax.Array | None) -> jax.Array:
    """float32 [M,F]: bfloat16 rows times a narrow kernel, on one CPU device.

    Args:
      kernel: [*in_dims, *out_dims], uint16 with the bits of bfloat16, or int8.
      scale_F: what a unit of each output's int8 weights is worth.
    """
    if fits_row_product(x_MK):
        y_MF = row_product(x_MK, kernel)
    else:
        if kernel.dtype == jnp.int8:  # XLA would widen all weights before the loop over tokens, and keep both
            x_MK, kernel = jax.lax.optimization_barrier((x_MK, kernel))
        w_KF = as_bfloat16(kernel).reshape(x_MK.shape[1], -1)
        y_MF = _summed_in_float32(x_MK, w_KF, (((1,), (0,)), ((), ())))
    return y_MF if scale_F is None else y_MF * scale_F


def few_rows_product(x_MK: jax.Array, w_FK: jax.Array) -> jax.Array:
    """[M,F] in float32: x w^T.

    The weights come first: XLA:CPU reads its first factor as it lies, and copies the second into an order of
    its own at every call.
    """
    y_FM = jnp.einsum("FK,MK->FM", w_FK, x_MK, preferred_element_type=sum_dtype(x_MK))
    # Apart, or XLA:CPU makes one product of both, with the factors in the other order.
    return (jax.lax.optimization_barrier(y_FM) if platform() == "cpu" else y_FM).T


def sum_over_rows(x_MK: jax.Array, g_MF: jax.Array, dtype: Any) -> jax.Array:
    """x^T g [K,F] in this dtype."""
    if platform() != "cpu" or x_MK.dtype == sum_dtype(x_MK):
        return jax.lax.dot_general(x_MK, g_MF, (((0,), (0,)), ((), ())), preferred_element_type=dtype)
    # XLA:CPU multiplies bfloat16 as bfloat16 only where no factor is summed over its rows: one of them is
    # transposed in memory, and with a table of many rows that is the other one.
    dims = (((1,), (0,)), ((), ()))
    if x_MK.shape[1] <= _MUCH_WIDER * g_MF.shape[1]:
        return _summed_in_float32(_by_rows(x_MK.T), g_MF, dims).astype(dtype)
    return _summed_in_float32(_by_rows(g_MF.T), x_MK, dims).T.astype(dtype)


def _summed_in_float32(x: jax.Array, y: jax.Array, dims: Any) -> jax.Array:
    """A product of bfloat16 that XLA:CPU computes as such, at twice the speed of float32.

    Only a float32 result by rows is one: XLA:CPU has none by columns, and the program would end there.
    """
    return _by_rows(jax.lax.dot_general(x, y, dims, preferred_element_type=sum_dtype(x)))


def _by_rows(x: jax.Array) -> jax.Array:
    """x with its rows one after the other in memory; XLA would choose the order by what follows."""
    return with_layout_constraint(x, Layout(major_to_minor=(0, 1)))


def _flat(x: jax.Array, num_last: int) -> jax.Array:
    return x.reshape(-1, math.prod(x.shape[x.ndim - num_last :]))


def _flat_kernel(kernel: jax.Array, num_in: int) -> jax.Array:
    return kernel.reshape(math.prod(kernel.shape[:num_in]), -1)

"""Whole models on a GPU: cuDNN beside XLA, and the float32 of the GPU beside the CPU's."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distances import distance

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import init_params
from flaxmill.train.jax_environment import set_float32_products
from flaxmill.train.objectives.losses import combine, denominators, numerators

pytestmark = pytest.mark.gpu

ROWS, TOKENS, VOCABULARY = 4, 256, 1000
CUSTOM_CALL = "cudnn$fmha"
# bfloat16 rounds each product and each activation to 8 bits; the loss averages a thousand places, and
# gradients carry the roundings of all layers. In float32 only the order of the sums differs.
BFLOAT16_LOSS, BFLOAT16_GRADIENTS = 2e-3, 6e-2
FLOAT32_LOSS, FLOAT32_GRADIENTS = 1e-5, 1e-4
BESIDE_XLA = 1.5  # attention is a part of all roundings

_SHAPE: dict[str, Any] = dict(
    vocab_size=VOCABULARY, max_positions=TOKENS, num_layers=3, embed_dim=256, num_heads=4, dtype="bfloat16"
)
_CAUSAL: dict[str, Any] = dict(causal=True, head="lm")
MODELS = {
    "gpt": ("causal", ModelConfig(**_SHAPE, **_CAUSAL)),
    "gpt with local layers": (
        "causal",
        ModelConfig(**_SHAPE, **_CAUSAL, layer_pattern=("global", "local"), window=64, remat="dots"),
    ),
    "llama": (
        "causal",
        ModelConfig(
            **_SHAPE,
            **_CAUSAL,
            num_kv_heads=2,
            norm="rmsnorm",
            positions="rotary",
            activation="silu",
            gated_mlp=True,
            use_bias=False,
            remat="full",
        ),
    ),
    "bert": (
        "mlm_nsp",
        ModelConfig(
            **_SHAPE,
            causal=False,
            head="mlm_nsp",
            norm_position="post",
            embedding_norm=True,
            num_segments=2,
            activation="gelu",
            initializer="bert",
        ),
    ),
    "t5": (
        "span_corruption",
        ModelConfig(**_SHAPE, **_CAUSAL, encoder_layers=2, positions="relative", norm="rmsnorm"),
    ),
}


def make_rows(objective: str) -> dict[str, np.ndarray]:
    """Random tokens in two packed documents and padding, or in one text and padding."""
    random = np.random.default_rng(0)
    shape = (ROWS, TOKENS)
    tokens, targets = random.integers(1, VOCABULARY, (2, *shape))
    lengths = random.integers(TOKENS // 2, TOKENS, ROWS)[:, None]
    places = np.broadcast_to(np.arange(TOKENS), shape)
    mask = places < lengths
    first = places < lengths // 3
    packed = objective == "causal"
    rows = {
        "tokens": tokens * mask,
        "targets": targets,
        "mask": mask,
        "documents": np.where(first | (not packed), 1, 2) * mask,
        "positions": np.where(first | (not packed), places, places - lengths // 3) * mask,
    }
    if objective == "mlm_nsp":
        rows |= {"segments": ~first * mask, "nsp_labels": np.arange(ROWS) % 2}
    if objective == "span_corruption":
        rows |= {"decoder_tokens": targets, "decoder_mask": np.ones(shape)}
    masked = random.random(shape) < 0.15 if objective == "mlm_nsp" else 1
    weights = (mask * masked).astype(np.float32)
    return {name: values.astype(np.int32) for name, values in rows.items()} | {"weights": weights}


@functools.cache
def make_params(name: str) -> Any:
    """Weights on the host: fresh ones are so small that most mistakes in attention would not show."""
    with jax.default_device(jax.devices("cpu")[0]):
        params = jax.jit(lambda key: init_params(MODELS[name][1], key))(jax.random.key(0))
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.03 * random.normal(size=leaf.shape).astype(np.float32), params
    )


def make_loss(name: str, **changes: Any) -> Any:
    """loss of (params, batch) by the trainer's own sums."""
    objective, config = MODELS[name]
    config = dataclasses.replace(config, **changes)

    def loss(params: Any, batch: Any) -> jax.Array:
        sums = numerators(objective, config, params, batch, max_predictions=None)
        return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]

    return loss


def loss_and_gradients(name: str, precision: str | None = None, device: Any = None, **changes: Any) -> Any:
    """The loss as a float, and the gradients on the host."""
    on = device or jax.devices()[0]
    given = jax.device_put((make_params(name), make_rows(MODELS[name][0])), on)
    with jax.default_matmul_precision(precision), jax.default_device(on):
        loss, grads = jax.jit(jax.value_and_grad(make_loss(name, **changes)))(*given)
    return float(loss), jax.tree.map(np.asarray, grads)


@functools.cache
def exact(name: str) -> Any:
    """In float32 with products in full."""
    return loss_and_gradients(name, "highest", dtype="float32", attention="xla")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_cudnn_is_as_near_to_float32_as_on_xla(name):
    wanted_loss, wanted = exact(name)
    given = jax.device_put((make_params(name), make_rows(MODELS[name][0])))
    program = jax.jit(jax.grad(make_loss(name, attention="auto"))).lower(*given).as_text()
    runs_on_cudnn = CUSTOM_CALL in program
    assert runs_on_cudnn == (name != "t5")  # T5 adds a learned bias in every layer
    apart = {}
    for backend in ("auto", "xla"):
        loss, grads = loss_and_gradients(name, attention=backend)
        apart[backend] = (abs(loss - wanted_loss) / wanted_loss, distance(grads, wanted))
        print(
            f"{name}: {backend}: loss {loss:.5f} of {wanted_loss:.5f}, apart {apart[backend][0]:.1e}; "
            f"gradients apart {apart[backend][1]:.1e}"
        )
    assert apart["auto"][0] < BFLOAT16_LOSS
    assert apart["auto"][1] < min(BFLOAT16_GRADIENTS, BESIDE_XLA * apart["xla"][1])


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "t5"])
def test_float32_with_full_products_equals_the_cpu(name):
    on_cpu = loss_and_gradients(name, "highest", jax.devices("cpu")[0], dtype="float32", attention="xla")
    for precision in ("default", "highest"):
        loss, grads = loss_and_gradients(name, precision, dtype="float32", attention="xla")
        apart = abs(loss - on_cpu[0]) / on_cpu[0], distance(grads, on_cpu[1])
        print(f"{name}: float32, precision {precision}: loss apart {apart[0]:.1e}, gradients {apart[1]:.1e}")
    assert apart[0] < FLOAT32_LOSS
    assert apart[1] < FLOAT32_GRADIENTS


def test_float32_is_not_rounded_to_tf32_and_bfloat16_is_left_alone():
    x, y = (jax.random.normal(jax.random.key(n), (512, 512)) for n in range(2))
    wanted = np.asarray(x, np.float64) @ np.asarray(y, np.float64)
    try:
        set_float32_products("float32")
        assert distance(jax.jit(jnp.matmul)(x, y), wanted) < 1e-6
        set_float32_products("bfloat16")
        assert jax.config.values["jax_default_matmul_precision"] is None
    finally:
        jax.config.update("jax_default_matmul_precision", None)

"""The parts that only some families have compute the same on every mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, apply, init_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.state import param_shardings

SMALL = functools.partial(
    ModelConfig, vocab_size=50, embed_dim=32, num_heads=4, mlp_dim=64, max_positions=16, dropout=0.1
)
CONFIGS = {
    "relative": SMALL(
        num_layers=2, encoder_layers=3, causal=True, head="lm", positions="relative", norm="rmsnorm",
        use_bias=False, scale_head=True,
    ),
    "patterns": SMALL(
        num_layers=5, causal=False, head="token_classification", num_labels=3, pooler="transform",
        positions="rotary", first_attention_norm=False, layer_pattern=("global", "local", "local"), window=4,
        gated_mlp=True, remat="full",
    ),
    "answers": SMALL(
        num_layers=3, causal=True, head="qa", layer_pattern=("global", "local"), window=3, num_kv_heads=2,
        qk_norm=True, positions="rotary", parallel_residual=True,
    ),
    "turns by length": SMALL(
        num_layers=2, causal=True, head="lm", positions="rotary", rope_scaling="dynamic", rope_factor=4.0,
        rope_original_positions=6, num_kv_heads=2,
    ),
}  # fmt: skip


def run(config, mesh_config):
    """Parameters, outputs and gradients of one loss, dropout on."""
    rng = np.random.default_rng(0)
    tokens_BT = jnp.asarray(rng.integers(0, 50, (8, 12)), jnp.int32)
    mask_BT = jnp.asarray(np.arange(12) < rng.integers(5, 12, (8, 1)), jnp.int32)
    batch = {"tokens": tokens_BT, "mask": mask_BT}
    if config.encoder_layers:
        batch |= {"decoder_tokens": tokens_BT[:, ::-1][:, :8], "decoder_mask": mask_BT[:, :8]}

    def loss(params):
        outputs = apply(config, params, batch, jax.random.key(5))
        return sum((value**2).mean() for value in outputs.values()), outputs

    mesh = make_mesh(mesh_config)
    with jax.set_mesh(mesh):
        make = jax.jit(
            lambda: init_params(config, jax.random.key(0)), out_shardings=param_shardings(config, mesh)
        )
        params = jax.tree.map(lambda leaf: 3 * leaf, make())
        (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.tree.map(np.asarray, (params, outputs, gradients))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_are_unchanged_by_the_mesh(name):
    config = CONFIGS[name]
    params, outputs, gradients = run(config, MeshConfig(data=1))
    # Two tensor shards: some of the models have only two key-value heads.
    split_params, split_outputs, split_gradients = run(config, MeshConfig(data=1, fsdp=4, tensor=2))
    jax.tree.map(np.testing.assert_array_equal, split_params, params)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
    for one, split in zip(*map(jax.tree.leaves, (outputs, split_outputs)), strict=True):
        # float32 sums over shards, in another order
        np.testing.assert_allclose(split, one, rtol=0, atol=1e-5 * np.abs(one).max())
    for one, split in zip(*map(jax.tree.leaves, (gradients, split_gradients)), strict=True):
        np.testing.assert_allclose(split, one, rtol=0, atol=1e-5 * norm)

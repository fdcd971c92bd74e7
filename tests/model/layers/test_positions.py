"""Positions: rotary turns, their stretching, and the buckets of relative distances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig
from flaxmill.model.layers.positions import (
    relative_buckets,
    rotary,
    rotary_frequencies,
    rotary_turns,
    sinusoidal,
)

ROTARY = ModelConfig(positions="rotary", embed_dim=32, num_heads=2, rope_theta=100.0)


def test_rotary_turns_pairs_by_position_times_frequency():
    x_BTNH = jax.random.normal(jax.random.key(0), (1, 5, 2, 16))
    positions_BT = jnp.array([[0, 1, 2, 3, 70]])
    got = np.asarray(rotary(x_BTNH, rotary_turns(ROTARY, "global", positions_BT)))
    x = np.asarray(x_BTNH, np.float64)
    pairs = x[..., :8] + 1j * x[..., 8:]
    angles = np.asarray(positions_BT)[:, :, None, None] * 100.0 ** -(np.arange(8) / 8)
    turned = pairs * np.exp(1j * angles)
    # float32 angles of up to 70 turns of the fastest pair
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], -1), atol=2e-5)


def test_a_fraction_of_the_head_turns_and_the_rest_stays():
    config = ModelConfig(positions="rotary", embed_dim=32, num_heads=2, rotary_fraction=0.25)
    x_BTNH = jax.random.normal(jax.random.key(0), (1, 3, 2, 16))
    got = rotary(x_BTNH, rotary_turns(config, "global", jnp.array([[0, 1, 2]])))
    np.testing.assert_array_equal(got[..., 4:], x_BTNH[..., 4:])
    assert (got[:, 1:, :, :4] != x_BTNH[:, 1:, :, :4]).all()


def test_local_layers_turn_at_their_own_speed():
    config = ModelConfig(
        positions="rotary", layer_pattern=("local",), window=4, rope_theta=1e6, local_rope_theta=10.0
    )
    fast, slow = (rotary_frequencies(config, kind)[-1] for kind in ("local", "global"))
    assert fast > 1000 * slow


def test_linear_scaling_divides_every_frequency():
    config = ModelConfig(positions="rotary", rope_scaling="linear", rope_factor=4.0)
    plain = rotary_frequencies(ModelConfig(positions="rotary"), "global")
    np.testing.assert_allclose(rotary_frequencies(config, "global"), plain / 4)


def test_llama3_scaling_leaves_fast_turns_and_stretches_slow_ones():
    config = ModelConfig(
        positions="rotary",
        head_dim=128,
        rope_theta=500_000.0,
        rope_scaling="llama3",
        rope_factor=8.0,
        rope_original_positions=8192,
    )
    plain = config.rope_theta ** -(np.arange(64) / 64)
    wavelengths = 2 * math.pi / plain
    ratio = rotary_frequencies(config, "global") / plain
    np.testing.assert_allclose(ratio[wavelengths < 8192 / 4], 1)
    np.testing.assert_allclose(ratio[wavelengths > 8192], 1 / 8)
    between = ratio[(wavelengths > 8192 / 4) & (wavelengths < 8192)]
    assert ((between > 1 / 8) & (between < 1)).all()
    assert (np.diff(between) < 0).all()


def test_small_distances_have_buckets_of_their_own_and_far_ones_share_the_last():
    distances = np.arange(-200, 201)
    both = relative_buckets(distances, 32, 128, causal=False)
    assert len(set(both[(distances <= 0) & (distances > -8)])) == 8
    assert set(both[distances < -127]) == {15}
    assert set(both[distances > 127]) == {31}
    behind = relative_buckets(distances, 32, 128, causal=True)
    assert set(behind[distances >= 0]) == {0}
    assert set(behind[distances < -127]) == {31}
    assert (np.diff(behind) <= 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_relative_buckets_equal_the_reference(causal):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-300, 301)
    for num_buckets, max_distance in [(32, 128), (8, 20), (12, 100)]:
        expected = T5Attention._relative_position_bucket(
            torch.from_numpy(distances), not causal, num_buckets, max_distance
        )
        np.testing.assert_array_equal(
            relative_buckets(distances, num_buckets, max_distance, causal), expected
        )


def test_sinusoidal_features_are_the_papers_in_halves():
    positions = [0, 1, 9, 511, 8191]
    features = np.asarray(sinusoidal(jnp.array([positions]), 64))[0]
    for row, position in enumerate(positions):
        angles = [position / 10_000 ** (2 * i / 64) for i in range(32)]
        # float32 holds sines to 6e-8, and an angle's two parts are each rounded once
        np.testing.assert_allclose(features[row], [*map(math.sin, angles), *map(math.cos, angles)], atol=5e-7)

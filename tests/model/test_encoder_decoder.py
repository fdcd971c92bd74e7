"""Properties of an encoder-decoder, apart from those that its stacks share with other Transformers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill import model
from flaxmill.model import ModelConfig, init_params, logical_axes

pytestmark = pytest.mark.slow

RELATIVE = ModelConfig(
    vocab_size=101,
    num_layers=3,
    encoder_layers=2,
    embed_dim=32,
    num_heads=4,
    head_dim=6,
    positions="relative",
    relative_buckets=8,
    relative_max_distance=20,
    norm="rmsnorm",
    use_bias=False,
    attention_scale=1.0,
    scale_head=True,
    causal=True,
    head="lm",
)
ORIGINAL = ModelConfig(
    vocab_size=101,
    num_layers=3,
    encoder_layers=2,
    embed_dim=32,
    num_heads=4,
    encoder_num_heads=2,
    mlp_dim=40,
    encoder_mlp_dim=56,
    positions="sinusoidal",
    norm_position="post",
    activation="relu",
    head_bias=True,
    causal=True,
    head="lm",
)
CONFIGS = {"relative": RELATIVE, "original": ORIGINAL}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@functools.partial(jax.jit, static_argnums=0)
def perturbed_params(config):
    leaves, tree = jax.tree.flatten(init_params(config, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


apply = jax.jit(model.apply, static_argnums=0)


def random_batch(num_tokens=9, num_decoded=7):
    keys = jax.random.split(jax.random.key(2), 2)
    draw = lambda key, size: jax.random.randint(key, (2, size), 0, 101)  # noqa: E731
    return {"tokens": draw(keys[0], num_tokens), "decoder_tokens": draw(keys[1], num_decoded)}


def test_the_decoder_reads_backwards_and_the_encoder_both_ways(config):
    params, batch = perturbed_params(config), random_batch()
    first = apply(config, params, batch)
    decoded = batch["decoder_tokens"]
    later = apply(
        config, params, batch | {"decoder_tokens": decoded.at[:, 4:].set((decoded[:, 4:] + 1) % 101)}
    )
    np.testing.assert_array_equal(first["logits"][:, :4], later["logits"][:, :4])
    assert (first["logits"][:, 4:] != later["logits"][:, 4:]).any()
    last = batch["tokens"].at[:, -1].set((batch["tokens"][:, -1] + 1) % 101)
    other = apply(config, params, batch | {"tokens": last})
    for name in ("encoder_hidden", "logits"):
        assert (jnp.abs(first[name] - other[name]).max(-1) > 0).all(), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_either_side_of_either_stack_changes_nothing(config, side):
    params, batch = perturbed_params(config), random_batch()
    widths = {"left": (3, 0), "right": (0, 3)}[side]
    pad = lambda x, value: jnp.pad(x, ((0, 0), widths), constant_values=value)  # noqa: E731
    padded = {name: pad(tokens, 7) for name, tokens in batch.items()}
    padded |= {"mask": pad(jnp.ones_like(batch["tokens"]), 0)}
    padded |= {"decoder_mask": pad(jnp.ones_like(batch["decoder_tokens"]), 0)}
    real = apply(config, params, padded)["logits"][:, widths[0] : widths[0] + 7]
    np.testing.assert_allclose(real, apply(config, params, batch)["logits"], atol=1e-5)  # sums reordered


def test_packed_pairs_are_as_if_alone(config):
    params, batch = perturbed_params(config), random_batch()
    one = {name: tokens[:1] for name, tokens in batch.items()}
    documents = {
        "documents": jnp.array([[1] * 4 + [2] * 5]),
        "decoder_documents": jnp.array([[1] * 5 + [2] * 2]),
    }
    packed = apply(config, params, one | documents)["logits"]
    parts = [
        {"tokens": one["tokens"][:, a], "decoder_tokens": one["decoder_tokens"][:, b]}
        for a, b in ((slice(4), slice(5)), (slice(4, None), slice(5, None)))
    ]
    alone = [apply(config, params, part)["logits"] for part in parts]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, 1), atol=1e-5)  # sums reordered


def test_scan_equals_unrolled_and_remat_equals_none(config):
    config = dataclasses.replace(config, dropout=0.2)
    batch = random_batch()

    def gradients(**changes):
        changed = dataclasses.replace(config, **changes)
        loss = lambda params: (apply(changed, params, batch, jax.random.key(3))["logits"] ** 2).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(perturbed_params(config))

    first = gradients()
    for changes in ({"scan_layers": False}, {"remat": "full"}):
        for a, b in zip(*map(jax.tree.leaves, (first, gradients(**changes))), strict=True):
            # float32, fused differently
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(float(jnp.abs(b).max()), 1e-3))


def test_every_dimension_has_a_logical_axis(config):
    axes = logical_axes(config)
    jax.tree.map(
        lambda leaf, names: np.testing.assert_equal(len(names), leaf.ndim), perturbed_params(config), axes
    )
    assert axes["encoder"]["layers"]["attention"]["query"]["kernel"][0] == "layers"


def test_a_batch_without_decoder_tokens_is_refused(config):
    with pytest.raises(ValueError, match="has no decoder_tokens"):
        model.apply(config, perturbed_params(config), {"tokens": random_batch()["tokens"]})

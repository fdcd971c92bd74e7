"""Properties of every Transformer that the config can describe."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmill import model
from flaxmill.model import ModelConfig, init_params
from flaxmill.model.transformer import complete_batch

GPT = ModelConfig(
    vocab_size=101, max_positions=16, num_layers=2, embed_dim=32, num_heads=4, causal=True, head="lm"
)
LLAMA = dataclasses.replace(
    GPT,
    num_kv_heads=2,
    norm="rmsnorm",
    positions="rotary",
    activation="silu",
    gated_mlp=True,
    use_bias=False,
    tie_embeddings=False,
    initializer="normal",
)
BERT = dataclasses.replace(
    GPT,
    causal=False,
    head="mlm_nsp",
    norm_position="post",
    embedding_norm=True,
    num_segments=2,
    activation="gelu",
    initializer="bert",
)
ORIGINAL = dataclasses.replace(
    GPT, norm_position="post", positions="sinusoidal", activation="relu", initializer="xavier"
)
# A window shorter than the rows, a different first layer, a depth that is not a multiple of the pattern.
MODERN = dataclasses.replace(
    BERT,
    head="mlm",
    num_layers=5,
    norm_position="pre",
    first_attention_norm=False,
    positions="rotary",
    local_rope_theta=100.0,
    layer_pattern=("global", "local", "local"),
    window=6,
    gated_mlp=True,
    use_bias=False,
)
NEOX = dataclasses.replace(
    GPT,
    positions="rotary",
    rotary_fraction=0.25,
    parallel_residual=True,
    tie_embeddings=False,
    layer_pattern=("global", "local"),
    window=3,
    num_layers=3,
    qk_norm=True,
)
CONFIGS = {"gpt": GPT, "llama": LLAMA, "bert": BERT, "original": ORIGINAL, "modern": MODERN, "neox": NEOX}


QUICK = ("gpt", "bert")


@pytest.fixture(
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def config(request):
    return CONFIGS[request.param]


@functools.partial(jax.jit, static_argnums=0)
def perturbed_params(config):
    """Weights large enough that biases, norms and activations show."""
    leaves, tree = jax.tree.flatten(init_params(config, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


apply = jax.jit(model.apply, static_argnums=0)


def random_tokens(num_tokens=12, rows=2):
    return jax.random.randint(jax.random.key(2), (rows, num_tokens), 0, 101)


def test_logits_cover_the_true_vocabulary_in_float32(config):
    outputs = apply(config, perturbed_params(config), {"tokens": random_tokens()})
    assert outputs["logits"].shape == (2, 12, 101)
    assert outputs["logits"].dtype == jnp.float32
    assert outputs["hidden"].shape == (2, 12, 32)
    assert ("nsp_logits" in outputs) == (config.head == "mlm_nsp")


def test_later_tokens_change_nothing_before_them_in_a_causal_model(config):
    if not config.causal:
        config = dataclasses.replace(config, causal=True)
    params, tokens = perturbed_params(config), random_tokens()
    changed = tokens.at[:, 7:].set((tokens[:, 7:] + 1) % 101)
    first, second = (apply(config, params, {"tokens": t})["logits"] for t in (tokens, changed))
    np.testing.assert_array_equal(first[:, :7], second[:, :7])
    assert (first[:, 7:] != second[:, 7:]).any()


def test_every_token_reaches_every_place_of_an_encoder():
    params, tokens = perturbed_params(BERT), random_tokens()
    changed = tokens.at[:, -1].set((tokens[:, -1] + 1) % 101)
    first, second = (apply(BERT, params, {"tokens": t})["logits"] for t in (tokens, changed))
    assert (jnp.abs(first - second).max(-1) > 0).all()


def test_packed_documents_are_as_if_alone(config):
    params, tokens = perturbed_params(config), random_tokens(12, rows=1)
    documents = jnp.array([[1] * 5 + [2] * 7])
    packed = apply(config, params, {"tokens": tokens, "documents": documents})["logits"]
    alone = [apply(config, params, {"tokens": part})["logits"] for part in (tokens[:, :5], tokens[:, 5:])]
    # rows of another length take sums in another order
    np.testing.assert_allclose(packed, jnp.concatenate(alone, 1), atol=1e-5)


def test_another_document_in_the_row_changes_nothing_at_all(config):
    params, tokens = perturbed_params(config), random_tokens(12, rows=1)
    documents = jnp.array([[1] * 5 + [2] * 7])
    changed = tokens.at[:, :5].set((tokens[:, :5] + 3) % 101)
    first, second = (
        apply(config, params, {"tokens": t, "documents": documents})["logits"] for t in (tokens, changed)
    )
    np.testing.assert_array_equal(first[:, 5:], second[:, 5:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(config, side):
    params, tokens = perturbed_params(config), random_tokens(10)
    widths = {"left": (4, 0), "right": (0, 4)}[side]
    pad = lambda x, value: jnp.pad(x, ((0, 0), widths), constant_values=value)  # noqa: E731
    batch = {"tokens": pad(tokens, 7), "mask": pad(jnp.ones_like(tokens), 0)}
    padded = apply(config, params, batch)["logits"]
    real = padded[:, widths[0] : widths[0] + 10]
    np.testing.assert_allclose(real, apply(config, params, {"tokens": tokens})["logits"], atol=1e-5)


def test_a_hole_in_the_mask_moves_no_position(config):
    params, tokens = perturbed_params(config), random_tokens(10)
    mask = jnp.ones_like(tokens).at[:, 4:6].set(0)
    positions = jnp.broadcast_to(jnp.arange(10), tokens.shape)
    batch = {"tokens": tokens, "mask": mask}
    real = np.asarray(mask, bool)
    np.testing.assert_array_equal(complete_batch(config, batch)["positions"][real], positions[real])
    first, second = (apply(config, params, b)["logits"] for b in (batch, batch | {"positions": positions}))
    # Positions that are constants of the program are turned into sines and cosines when it is compiled.
    np.testing.assert_allclose(first[real], second[real], atol=1e-5)


@functools.lru_cache
def gradients(config):
    """Gradients of one loss at one set of weights; the configs differ only in how they are run."""

    def loss(params):
        logits = apply(config, params, {"tokens": random_tokens()}, jax.random.key(3))["logits"]
        return (jax.nn.log_softmax(logits) ** 2).mean()

    same = dataclasses.replace(config, remat="none", scan_layers=True)
    return jax.jit(jax.grad(loss))(perturbed_params(same))


def assert_gradients_close(first, second):
    """Differently fused float32. Where a true gradient is zero (key biases), only rounding is left."""
    scale = float(optax.tree.norm(second))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(float(jnp.abs(b).max()), 1e-3 * scale))


@pytest.mark.slow
def test_scan_equals_unrolled(config):
    config = dataclasses.replace(config, dropout=0.2)
    assert_gradients_close(gradients(config), gradients(dataclasses.replace(config, scan_layers=False)))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_remat_equals_none(config, remat, scan_layers):
    config = dataclasses.replace(config, dropout=0.2, scan_layers=scan_layers)
    assert_gradients_close(gradients(dataclasses.replace(config, remat=remat)), gradients(config))


@pytest.mark.slow
def test_remat_keeps_less():
    def temporary_bytes(remat):
        config = dataclasses.replace(GPT, remat=remat, num_layers=8)
        loss = lambda params: apply(config, params, {"tokens": random_tokens(16, 32)})["hidden"].sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(model.abstract_params(config)).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporary_bytes("full") < temporary_bytes("dots") < temporary_bytes("none")


def test_dropout_needs_a_key_and_follows_it(config):
    config, params = dataclasses.replace(config, dropout=0.5), perturbed_params(config)
    batch = {"tokens": random_tokens()}
    quiet = apply(config, params, batch)["logits"]
    np.testing.assert_array_equal(
        quiet, apply(dataclasses.replace(config, dropout=0.0), params, batch)["logits"]
    )
    first, again, other = (apply(config, params, batch, jax.random.key(seed))["logits"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != quiet).any()


def test_bfloat16_follows_float32(config):
    params = perturbed_params(config)
    exact = apply(config, params, {"tokens": random_tokens()})["logits"]
    low = apply(dataclasses.replace(config, dtype="bfloat16"), params, {"tokens": random_tokens()})["logits"]
    assert low.dtype == jnp.float32
    # bfloat16 keeps 8 bits; a few dozen roundings on the way
    assert jnp.abs(low - exact).mean() < 0.03 * exact.std()


@pytest.mark.slow
def test_bfloat16_gradients_of_what_many_tokens_share_are_summed_in_float32():
    """Sums of thousands of bfloat16 terms would stagnate: embeddings of frequent ids, biases, segments."""
    config = dataclasses.replace(BERT, head="mlm", num_layers=1)
    params = perturbed_params(config)
    tokens = jax.random.randint(jax.random.key(5), (256, 16), 0, 3)

    def gradient(dtype):
        def loss(params):
            hidden = apply(dataclasses.replace(config, dtype=dtype), params, {"tokens": tokens})["hidden"]
            return (
                hidden.astype(jnp.float32) * jnp.linspace(0.5, 1.5, hidden.size).reshape(hidden.shape)
            ).sum()

        return jax.jit(jax.grad(loss))(params)

    exact, low = gradient("float32"), gradient("bfloat16")
    shared = [("embed", "tokens", "embedding"), ("embed", "segments", "embedding")]
    shared += [("layers", "mlp", "up", "bias"), ("layers", "attention", "value", "bias")]
    for path in shared:
        a, b = (functools.reduce(dict.__getitem__, path, tree) for tree in (low, exact))
        # bfloat16 keeps 8 bits: single terms are off by up to 0.4%, their sums by less than a few
        assert jnp.linalg.norm(a - b) < 0.05 * jnp.linalg.norm(b), path


def test_rows_longer_than_the_learned_positions_are_refused():
    with pytest.raises(ValueError, match=r"rows of 17 tokens exceed model\.max_positions=16"):
        apply(GPT, perturbed_params(GPT), {"tokens": random_tokens(17)})


def test_a_model_whose_head_is_not_yet_derived_is_refused():
    with pytest.raises(ValueError, match=r"model\.head=None"):
        init_params(dataclasses.replace(GPT, head=None), jax.random.key(0))


def test_a_batch_without_rows_of_tokens_is_refused():
    for batch in ({}, {"tokens": jnp.arange(5)}):
        with pytest.raises(ValueError, match=r"the batch has no tokens \[B,T\]"):
            model.apply(GPT, perturbed_params(GPT), batch)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"positions": "alibi"}, "model.positions='alibi' is unknown; use one of learned, sinusoidal"),
        ({"norm": "l2"}, "model.norm='l2' is unknown; use one of layernorm, rmsnorm"),
        ({"dtype": "float16"}, "model.dtype='float16' is unknown"),
        ({"head": "foo"}, "model.head='foo' is unknown"),
        ({"layer_pattern": ("local",)}, "has local layers but model.window is None"),
        ({"layer_pattern": ("near",), "window": 4}, "must be made of global and local"),
        ({"encoder_layers": 2, "parallel_residual": True}, "has no place for attention to an encoder"),
        ({"encoder_layers": 2, "head": "mlm", "causal": False}, "needs a causal decoder with the lm head"),
        ({"norm_position": "post", "parallel_residual": True}, "model.norm_position=post needs"),
        ({"rotary_fraction": 0.0}, "model.rotary_fraction=0.0 must be above 0"),
        ({"positions": "rotary", "rotary_fraction": 0.4}, "rotary positions turn pairs, so it must be even"),
        ({"relative_buckets": 6}, "model.relative_buckets=6 must be a multiple of 4"),
        ({"head": "mlm_nsp", "pooler": "none"}, "model.pooler=none contradicts model.head=mlm_nsp"),
    ],
)
def test_a_config_that_is_no_model_is_refused(changes, text):
    with pytest.raises(ValueError, match=r"^model") as refused:
        dataclasses.replace(GPT, **changes)
    assert text in str(refused.value)


def test_segments_reach_the_output():
    params, tokens = perturbed_params(BERT), random_tokens()
    segments = jnp.zeros_like(tokens).at[:, 6:].set(1)
    first = apply(BERT, params, {"tokens": tokens})["logits"]
    assert (first != apply(BERT, params, {"tokens": tokens, "segments": segments})["logits"]).any()


def test_rotary_attention_depends_on_distance_alone():
    config, tokens = dataclasses.replace(LLAMA, tie_embeddings=True), random_tokens()
    params = perturbed_params(config)
    positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    first, moved = (
        apply(config, params, {"tokens": tokens, "positions": p})["logits"]
        for p in (positions, positions + 5)
    )
    np.testing.assert_allclose(first, moved, atol=2e-5)  # other angles, float32
    stretched = apply(config, params, {"tokens": tokens, "positions": 2 * positions})["logits"]
    assert jnp.abs(first - stretched).max() > 1e-3

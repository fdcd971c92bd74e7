import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import GenerationConfig, Generator, ModelConfig
from flaxmill.model.functional import apply, init_params
from flaxmill.model.generation.cached_model import read_prompt, read_token
from flaxmill.model.generation.unrolled_model import check_weights, unroll
from flaxmill.model.layers.dense import few_rows_product, narrow_product
from flaxmill.model.row_product import as_bits

CONFIG = ModelConfig(
    num_layers=3,
    embed_dim=64,
    num_heads=4,
    vocab_size=300,
    max_positions=64,
    positions="learned",
    head="lm",
    causal=True,
    dtype="float32",
)
PROMPTS = np.random.default_rng(0).integers(3, 300, (2, 16)).astype(np.int32)


def params(config=CONFIG):
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


def log_probs(config, weights, rows, given=None):
    """float32 [2,B,V]: after a prompt, and after one more token."""
    model = unroll(config, params(config) if given is None else given, weights)

    @jax.jit
    def read(model, tokens_BP):
        first_B = jnp.zeros(len(tokens_BP), jnp.int32)
        one, cache = read_prompt(model, tokens_BP, first_B, 32, None)
        two, _ = read_token(model, jnp.full(len(tokens_BP), 7), cache, None)
        return jax.nn.log_softmax(jnp.stack([one, two]))

    return np.asarray(read(model, rows))


@pytest.mark.parametrize("tied", [True, False])
# bfloat16 rounds to 2^-9 of a number, int8 to 2^-8 of an output's largest weight: on logits of about 1, after
# three layers.
@pytest.mark.parametrize(("weights", "bound"), [("bfloat16", 0.02), ("int8", 0.03)])
def test_narrow_weights_move_log_probabilities_by_little(tied, weights, bound):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    exact, near = (log_probs(config, kind, PROMPTS) for kind in ("float32", weights))
    assert 0 < np.abs(near - exact).max() < bound


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_row_alone_gets_what_it_gets_among_others(weights):
    both = log_probs(CONFIG, weights, PROMPTS)
    alone = log_probs(CONFIG, weights, PROMPTS[:1])
    # Sums in another order, rounded to bfloat16 after each product.
    np.testing.assert_allclose(alone[:, 0], both[:, 0], atol=0.01)


@pytest.mark.parametrize(("weights", "bound"), [("float32", 1e-4), ("bfloat16", 0.02), ("int8", 0.03)])
def test_an_adapter_is_added_to_weights_of_any_kind(weights, bound):
    config = dataclasses.replace(CONFIG, lora_rank=2)
    random = np.random.default_rng(2)
    given = jax.tree_util.tree_map_with_path(
        lambda path, leaf: random.normal(0, 0.1, leaf.shape) if "lora_b" in str(path) else leaf,
        params(config),
    )
    exact = jax.nn.log_softmax(apply(config, given, {"tokens": jnp.asarray(PROMPTS)})["logits"][:, -1])
    near = log_probs(config, weights, PROMPTS, given)[0]
    without = log_probs(config, weights, PROMPTS)[0]
    assert np.abs(near - exact).max() < bound < np.abs(without - exact).max() / 2


@pytest.mark.parametrize("num_rows", [1, 3])
def test_the_product_of_few_rows_is_the_product(num_rows):
    random = np.random.default_rng(1)
    x, w = (jnp.asarray(random.normal(size=(rows, 48)), jnp.float32) for rows in (num_rows, 40))
    np.testing.assert_allclose(jax.jit(few_rows_product)(x, w), np.asarray(x) @ np.asarray(w).T, atol=1e-4)


@pytest.mark.parametrize("num_inputs", [48, 50])  # a multiple of the chunk, and not
@pytest.mark.parametrize("num_rows", [1, 3])
def test_the_narrow_product_is_the_product(num_inputs, num_rows):
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(num_rows, num_inputs)), jnp.bfloat16)
    w = jnp.asarray(random.normal(size=(num_inputs, 5, 8)), jnp.bfloat16)
    units = jnp.asarray(random.integers(-127, 128, (num_inputs, 40)), jnp.int8)
    scale = jnp.asarray(random.uniform(0.5, 2, 40), jnp.float32)

    def wide(array):
        return np.asarray(array, np.float64)

    np.testing.assert_allclose(
        jax.jit(narrow_product)(x, as_bits(w), None), wide(x) @ wide(w).reshape(-1, 40), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        jax.jit(narrow_product)(x, units, scale), wide(x) @ wide(units) * wide(scale), rtol=1e-4, atol=1e-2
    )


@pytest.mark.parametrize(("weights", "num_bytes"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_memory_holds_the_weights_once(weights, num_bytes):
    config = dataclasses.replace(CONFIG, embed_dim=128, vocab_size=2048)
    before = {id(array) for array in jax.live_arrays()}
    given = params(config)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(given)) / 4
    generator = Generator(config, given, weights, frees=True)
    held = sum(array.nbytes for array in jax.live_arrays() if id(array) not in before)
    # Norms, biases and scales are float32, and positions at least bfloat16.
    assert held < 1.06 * num_bytes * total
    assert generator.generate([[5, 6]], GenerationConfig(max_new_tokens=3))


def test_params_stay_where_they_are_not_given_away():
    given = params()
    first = Generator(CONFIG, given).generate([[5, 6]])
    assert Generator(CONFIG, given).generate([[5, 6]]) == first


def test_the_loop_over_tokens_widens_no_weights():
    model = unroll(CONFIG, params(), "bfloat16")

    @jax.jit
    def loop(model, tokens_BP):
        logits, cache = read_prompt(model, tokens_BP, jnp.zeros(1, jnp.int32), 32, None)

        def step(_, carry):
            tokens_B, cache = carry
            logits, cache = read_token(model, tokens_B, cache, None)
            return logits.argmax(-1).astype(jnp.int32), cache

        return jax.lax.fori_loop(0, 4, step, (logits.argmax(-1).astype(jnp.int32), cache))[0]

    text = loop.lower(model, PROMPTS[:1]).compile().as_text()
    assert text is not None
    body = text[: text.index("ENTRY")]
    carried = next(line for line in body.splitlines() if "while/body" not in line and "(s32[]" in line)
    assert "u16[64,256]" in carried
    assert "f32[64,256]" not in carried


def test_int8_is_refused_for_experts_and_for_a_mesh():
    experts = dataclasses.replace(CONFIG, num_experts=4, experts_per_token=2)
    with pytest.raises(ValueError, match=r"^weights=int8 is not for experts .*; choose bfloat16$"):
        check_weights(experts, "int8")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"^weights=int8 is for one CPU device"):
        check_weights(CONFIG, "int8")

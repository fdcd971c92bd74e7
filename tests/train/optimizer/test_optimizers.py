import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from flaxmill.train.optimizer.optimizers import OptimizerConfig, decay_mask, make_optimizer

pytestmark = pytest.mark.slow  # it compiles many models

L, D, N, H, F = 3, 128, 2, 96, 160  # D, N*H and F reach Adafactor's smallest factored dim, H does not
NAMES = ("adamw", "lamb", "adafactor", "lion", "muon")


def make_params(key: int = 0, size: float = 0.1) -> dict[str, Any]:
    shapes = {
        "embed": {"tokens": {"embedding": (130, D)}},
        "layers": {
            "attention": {
                "query": {"kernel": (L, D, N, H), "bias": (L, N, H)},
                "out": {"kernel": (L, N, H, D), "bias": (L, D)},
            },
            "mlp": {"up": {"kernel": (L, D, F), "bias": (L, F)}, "down": {"kernel": (L, F, D)}},
            "norm": {"scale": (L, D)},
        },
        "final_norm": {"scale": (D,)},
    }
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    rng = np.random.default_rng(key)
    return jax.tree.unflatten(tree, [jnp.asarray(size * rng.normal(size=s), jnp.float32) for s in leaves])


def run(config: OptimizerConfig, num_steps: int = 3, learning_rate: float = 0.01) -> tuple[Any, Any]:
    params = make_params()
    return run_transformation(make_optimizer(config, params), params, num_steps, learning_rate)


def run_transformation(optimizer, params, num_steps, learning_rate, make_gradients=make_params):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(num_steps):
        updates, state = update(make_gradients(step + 1), state, params)
        params = jax.tree.map(lambda p, u: p + learning_rate * u, params, updates)
    return params, state


def numpy_adamw(config: OptimizerConfig, num_steps: int, learning_rate: float) -> Any:
    params = jax.tree.map(np.float64, make_params())
    mean, square = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    rates = jax.tree.map(lambda decays: config.weight_decay if decays else 0.0, decay_mask(params))
    for step in range(1, num_steps + 1):
        gradients = jax.tree.map(np.float64, make_params(step))
        mean = jax.tree.map(lambda m, g: config.beta1 * m + (1 - config.beta1) * g, mean, gradients)
        square = jax.tree.map(lambda v, g: config.beta2 * v + (1 - config.beta2) * g * g, square, gradients)
        scale1, scale2 = (
            (1 - beta**step if config.bias_correction else 1.0) for beta in (config.beta1, config.beta2)
        )
        params = jax.tree.map(
            lambda p, m, v, rate, s1=scale1, s2=scale2: (
                p - learning_rate * ((m / s1) / (np.sqrt(v / s2) + config.epsilon) + rate * p)
            ),
            params,
            mean,
            square,
            rates,
        )
    return params


@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_equals_numpy(bias_correction):
    config = OptimizerConfig(bias_correction=bias_correction, beta2=0.999, epsilon=1e-6, weight_decay=0.01)
    found, _ = run(config, 5)
    expected = numpy_adamw(config, 5, 0.01)
    # float32 against float64: weights of 0.1 to 0.4 round by up to 3e-8 a step.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_decay_leaves_biases_and_scales_alone(name):
    params = make_params()
    gradients = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.1), params)
    updates, _ = jax.jit(optimizer.update)(gradients, jax.jit(optimizer.init)(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        text = jax.tree_util.keystr(path)
        assert bool(jnp.any(update != 0)) == ("kernel" in text or "embedding" in text), text


def unstack(params: Any) -> Any:
    """One dict per layer, attention kernels as the matrices they multiply by."""

    def layer(index):
        layers = jax.tree.map(lambda x: x[index], params["layers"])
        attention = layers["attention"]
        attention["query"]["kernel"] = attention["query"]["kernel"].reshape(D, N * H)
        attention["out"]["kernel"] = attention["out"]["kernel"].reshape(N * H, D)
        return layers

    rest = {name: value for name, value in params.items() if name != "layers"}
    return {**rest, "unstacked": [layer(index) for index in range(L)]}


def muon_by_hand(config: OptimizerConfig) -> optax.GradientTransformation:
    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if "unstacked" in str(path) and "kernel" in str(path) else "adam", params
        )

    def dims(updates):
        return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(0, 1), updates)

    def to_adam_size(update: Any, _: Any) -> Any:
        return update * 0.2 * math.sqrt(max(update.shape))

    scale = optax.stateless_with_tree_map(to_adam_size)
    return optax.chain(
        optax.partition(
            {
                "muon": optax.chain(
                    contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=dims), scale
                ),
                "adam": optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
            },
            labels,
        ),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale(-1.0),
    )


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_the_matrices_of_experts_are_optimized_as_separate_matrices(name):
    """Each expert moves as it would as the MLP of a layer."""
    kernel = jnp.asarray(0.1 * np.random.default_rng(0).normal(size=(2, 3, 4, 6)), jnp.float32)
    stacked = {"layers": {"moe": {"up": {"kernel": kernel}, "router": {"kernel": kernel[:, 0]}}}}
    apart = {"layers": {"mlp": {"up": {"kernel": kernel.reshape(6, 4, 6)}}}}
    moved: list[Any] = []
    for params in (stacked, apart):
        optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.0), params)
        updates: Any = optimizer.update(params, optimizer.init(params), params)[0]
        moved.append(updates["layers"])
    found, expected = moved[0]["moe"]["up"]["kernel"].reshape(6, 4, 6), moved[1]["mlp"]["up"]["kernel"]
    if name == "adafactor":  # clips and scales by the size of a layer's tensor, all its experts together
        found, expected = (x / np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # Newton-Schulz in another order


def lamb_by_hand(config: OptimizerConfig) -> optax.GradientTransformation:
    full = optax.lamb(1.0, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay)
    plain = optax.adam(1.0, config.beta1, config.beta2, config.epsilon)
    return optax.partition(
        {True: full, False: plain},
        lambda params: jax.tree.map(bool, decay_mask(params)),
    )


def adafactor_by_hand(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.adafactor(weight_decay_rate=config.weight_decay, weight_decay_mask=decay_mask)


@pytest.mark.parametrize(
    ("name", "by_hand"), [("lamb", lamb_by_hand), ("adafactor", adafactor_by_hand), ("muon", muon_by_hand)]
)
def test_stacked_layers_are_optimized_as_separate_layers(name, by_hand):
    config = OptimizerConfig(name=name)
    found, _ = run(config)
    expected, _ = run_transformation(
        by_hand(config), unstack(make_params()), 3, 0.01, lambda key: unstack(make_params(key))
    )
    # The same sums in another order: differences of 1e-7 in the norms, larger ones in Newton-Schulz.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), unstack(found), expected)


def test_lamb_on_a_whole_stack_would_differ():
    config = OptimizerConfig(name="lamb")
    params = make_params()
    params["layers"]["mlp"]["up"]["kernel"] *= jnp.array([1.0, 10.0, 100.0])[:, None, None]
    gradients = make_params(1)
    ours = make_optimizer(config, params)
    plain = lamb_by_hand(config)
    update, _ = jax.jit(ours.update)(gradients, ours.init(params), params)
    other, _ = jax.jit(plain.update)(gradients, plain.init(params), params)
    kernels = [np.asarray(tree["layers"]["mlp"]["up"]["kernel"][0]) for tree in (update, other)]
    assert np.linalg.norm(kernels[1]) > 10 * np.linalg.norm(kernels[0])


def test_adafactor_factors_every_matrix_of_the_layers():
    params = make_params()
    state = make_optimizer(OptimizerConfig(name="adafactor"), params).init(params)
    matrices = sum(x.size for x in jax.tree.leaves(params) if x.size > 10_000)
    assert sum(x.size for x in jax.tree.leaves(state)) < matrices / 20


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_reduces_a_quadratic(name):
    params, target = make_params(0), make_params(1)
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.0), params)

    def loss(params):
        return sum(
            jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (params, target)), strict=True)
        )

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(lambda p, u: p + 0.02 * u, params, updates), state

    before, state = loss(params), optimizer.init(params)
    for _ in range(10):
        params, state = step(params, state)
    assert loss(params) < 0.8 * before


@pytest.mark.parametrize("name", NAMES)
def test_state_is_arrays_and_can_be_donated(name):
    params = make_params()
    optimizer = make_optimizer(OptimizerConfig(name=name), jax.eval_shape(make_params))
    state = jax.jit(optimizer.init)(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    _, new_state = jax.jit(optimizer.update, donate_argnums=1)(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == shapes


def test_params_without_layers_are_accepted():
    params = {"head": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    for name in NAMES:
        optimizer = make_optimizer(OptimizerConfig(name=name), params)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)


def make_groups(key: int) -> dict[str, Any]:
    """Layers in groups of different depths, as an encoder-decoder has them."""
    stacks = [{"layers": make_params(key + 10 * number)["layers"]} for number in range(4)]
    first, middle, last, encoder = (stack["layers"] for stack in stacks)
    return {
        "first_layers": jax.tree.map(lambda x: x[:1], first),
        "layers": middle,
        "last_layers": jax.tree.map(lambda x: x[:2], last),
        "encoder": {"layers": encoder, "relative_bias": {"embedding": jnp.ones((8, N))}},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_of_every_group_are_optimized_as_separate_layers(name):
    config = OptimizerConfig(name=name)
    params = make_groups(0)
    found, _ = run_transformation(make_optimizer(config, params), params, 2, 0.01, make_groups)

    def last_encoder_layer(key: int) -> dict[str, Any]:
        return {"layers": jax.tree.map(lambda x: x[-1:], make_groups(key)["encoder"]["layers"])}

    alone = last_encoder_layer(0)
    expected, _ = run_transformation(make_optimizer(config, alone), alone, 2, 0.01, last_encoder_layer)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[-1:], b, rtol=0, atol=2e-6),
        found["encoder"]["layers"],
        expected["layers"],
    )


def test_scales_of_heads_do_not_decay_and_relative_positions_do():
    params = {
        "layers": {"attention": {"query_norm": {"scale": jnp.ones((L, H))}}},
        "encoder": {"relative_bias": {"embedding": jnp.ones((8, N))}},
    }
    mask = decay_mask(params)
    assert not mask["layers"]["attention"]["query_norm"]["scale"]
    assert mask["encoder"]["relative_bias"]["embedding"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "adam"}, r"optimizer.name='adam' is unknown; use one of adamw"),
        ({"schedule": "step"}, r"optimizer.schedule='step'"),
        ({"learning_rate": -1.0}, r"optimizer.learning_rate=-1.0 must be"),
        ({"learning_rate": float("nan")}, r"optimizer.learning_rate=nan"),
        ({"warmup_fraction": 1.5}, r"optimizer.warmup_fraction=1.5"),
        ({"beta2": 1.0}, r"optimizer.beta2=1.0"),
        ({"weight_decay": -0.1}, r"optimizer.weight_decay=-0.1"),
        ({"clip_norm": 0.0}, r"optimizer.clip_norm=0.0"),
        ({"name": "lion", "bias_correction": False}, r"bias_correction=False has no meaning"),
        ({"schedule": "wsd", "warmup_fraction": 0.9}, r"add up to more than 1"),
    ],
)
def test_config_refuses(fields, text):
    with pytest.raises(ValueError, match=text):
        OptimizerConfig(**fields)

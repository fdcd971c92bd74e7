"""Optimizers and schedules compared with PyTorch's, transformers' and the formulas of the papers.

torch has no LAMB and no Lion: LAMB is compared with its formula, written out below, and Lion is optax's own.
torch's Muon orthogonalises in bfloat16, and optax corrects the bias of its momentum, which torch does not:
the two are the same without that rounding, at the first step or without momentum.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers import optimization

from flaxmill.train.checkpoint.manifest import named_leaves
from flaxmill.train.optimizer.optimizers import OptimizerConfig, clip_gradients, make_optimizer
from flaxmill.train.optimizer.schedule import make_schedule

pytestmark = pytest.mark.slow

L, D, N, H, F = (
    3,
    128,
    2,
    64,
    136,
)  # torch's Adafactor factors every matrix, ours only matrices of 128 by 128 and more
RATE, STEPS = 0.01, 20
Arrays = dict[str, Any]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def random_params(seed: int, size: float = 0.1) -> dict[str, Any]:
    layer = {
        "query": {"kernel": (D, N, H), "bias": (N, H)},
        "out": {"kernel": (N, H, D)},
        "norm": {"scale": (D,)},
    }
    mlp = {"up": {"kernel": (D, F), "bias": (F,)}, "down": {"kernel": (F, D)}}

    def stack(shapes: Any, num_layers: int) -> Any:
        return jax.tree.map(
            lambda shape: (num_layers, *shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
        )

    shapes = {
        "embed": {"tokens": {"embedding": (130, D)}},
        "layers": stack({"attention": layer, "mlp": mlp}, L),
        "encoder": {"layers": stack({"mlp": mlp}, 2), "relative_bias": {"embedding": (130, D)}},
        "final_norm": {"scale": (D,), "bias": (D,)},
    }
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(size * rng.normal(size=s), jnp.float32) for s in leaves])


def apart(params: Any) -> dict[str, np.ndarray]:
    """One array per layer, as PyTorch keeps them; attention kernels as the matrices they multiply by."""
    arrays = {}
    for path, leaf in named_leaves(params).items():
        name, values = "/".join(path), np.asarray(leaf)
        if "layers" not in path:
            arrays[name] = values
            continue
        for index, value in enumerate(values):
            if value.ndim > 2 and path[-1] == "kernel":
                value = value.reshape(-1, D) if path[-2] == "out" else value.reshape(D, -1)
            arrays[f"{name}/{index}"] = value.reshape(-1) if path[-1] == "bias" else value
    return arrays


def decays(name: str) -> bool:
    return "kernel" in name or "embedding" in name


def trained(
    config: OptimizerConfig, num_steps: int = STEPS, rate: Callable[[int], Any] = lambda step: RATE
) -> Arrays:
    """Random weights after `num_steps` steps of our optimizer with random gradients."""
    params = random_params(0)
    optimizer = make_optimizer(config, params)

    @jax.jit
    def step(params, state, gradients, rate):
        gradients = clip_gradients(gradients, optax.tree.norm(gradients), config.clip_norm)
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p + rate * u, params, updates), state

    state = jax.jit(optimizer.init)(params)
    for number in range(num_steps):
        params, state = step(params, state, random_params(number + 1), rate(number))
    return apart(params)


def trained_by_torch(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    config: OptimizerConfig,
    num_steps: int = STEPS,
    keep: Callable[[str], bool] = lambda name: True,
) -> Arrays:
    params = {
        name: torch.nn.Parameter(torch.tensor(a)) for name, a in apart(random_params(0)).items() if keep(name)
    }
    optimizer = make(
        [
            {"params": [p for n, p in params.items() if decays(n)], "weight_decay": config.weight_decay},
            {"params": [p for n, p in params.items() if not decays(n)], "weight_decay": 0.0},
        ]
    )
    for number in range(num_steps):
        gradients = apart(random_params(number + 1))
        for name, param in params.items():
            param.grad = torch.tensor(gradients[name])
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), config.clip_norm)
        optimizer.step()
    return {name: param.detach().numpy() for name, param in params.items()}


def assert_close(found: Arrays, expected: Arrays, tolerance: float) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


# Weights reach 0.5, where a float32 has steps of 6e-8: twenty roundings on either side stay below 1e-6.
ROUNDING = 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_norm": None, "beta2": 0.999},
        {"clip_norm": 1e6},
        {"beta1": 0.0, "beta2": 0.98, "epsilon": 1e-6, "weight_decay": 0.01},
        {"beta1": 0.8, "epsilon": 1e-2, "weight_decay": 0.0, "clip_norm": 0.1},
    ],
    ids=str,
)
def test_adamw_with_clipping_equals_torch(settings):
    config = OptimizerConfig(**settings)
    expected = trained_by_torch(
        lambda groups: torch.optim.AdamW(
            groups, lr=RATE, betas=(config.beta1, config.beta2), eps=config.epsilon
        ),
        config,
    )
    assert_close(trained(config), expected, ROUNDING)


def test_adafactor_equals_torch():
    config = OptimizerConfig(name="adafactor", clip_norm=None)
    expected = trained_by_torch(
        lambda groups: torch.optim.Adafactor(groups, lr=RATE, eps=(1e-30, 1e-3), d=1.0), config
    )
    assert_close(trained(config), expected, ROUNDING)


@pytest.mark.parametrize(("momentum", "num_steps"), [(0.95, 1), (0.0, 5)])
def test_muon_equals_torch_in_float32(monkeypatch, momentum, num_steps):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    config = OptimizerConfig(name="muon", momentum=momentum, clip_norm=None)
    expected = trained_by_torch(
        lambda groups: torch.optim.Muon(groups, lr=RATE, momentum=momentum, adjust_lr_fn="match_rms_adamw"),
        config,
        num_steps,
        keep=lambda name: "layers" in name and "kernel" in name,
    )
    assert_close(trained(config, num_steps), expected, ROUNDING)


def in_float64(
    config: OptimizerConfig, direction: Callable[[str, np.ndarray, np.ndarray], np.ndarray], rate: Any = None
) -> Arrays:
    """STEPS steps with clipping to norm 1; `direction` gives a tensor's step for a learning rate of 1."""
    params = {name: value.astype(np.float64) for name, value in apart(random_params(0)).items()}
    for number in range(STEPS):
        gradients = {name: g.astype(np.float64) for name, g in apart(random_params(number + 1)).items()}
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name in params:
            step = direction(name, params[name], gradients[name] / max(1.0, norm))
            params[name] = params[name] - (RATE if rate is None else rate(number)) * step
    return params


def moments(config: OptimizerConfig) -> Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray, int]]:
    """Running means of each tensor's gradients and of their squares, and how many there were."""
    kept: dict[str, tuple[Any, Any, int]] = {}

    def update(name: str, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        m, v, count = kept.get(name, (0.0, 0.0, 0))
        m = config.beta1 * m + (1 - config.beta1) * gradient
        v = config.beta2 * v + (1 - config.beta2) * gradient**2
        kept[name] = m, v, count + 1
        return kept[name]

    return update


def test_bert_training_equals_the_published_formula():
    """google-research/bert, optimization.py: m / (sqrt(v) + eps) + decay * p, its schedule and clipping."""
    config = OptimizerConfig(
        bias_correction=False, beta2=0.999, epsilon=1e-6, weight_decay=0.01, schedule="bert",
        warmup_fraction=0.25, learning_rate=RATE,
    )  # fmt: skip
    update, warmup = moments(config), 5

    def rate(step: int) -> float:
        return RATE * step / warmup if step < warmup else RATE * (1 - step / STEPS)

    def direction(name: str, param: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        m, v, _ = update(name, gradient)
        return m / (np.sqrt(v) + config.epsilon) + decays(name) * config.weight_decay * param

    schedule = make_schedule(config, STEPS)
    assert_close(trained(config, rate=schedule), in_float64(config, direction, rate), ROUNDING)


def test_lamb_equals_nvidias_formula():
    """apex's FusedLAMB: clipped gradients, corrected moments, |w| / |update| for each tensor that decays."""
    config = OptimizerConfig(name="lamb", beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0)
    update = moments(config)

    def direction(name: str, param: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        m, v, count = update(name, gradient)
        step = (m / (1 - config.beta1**count)) / (np.sqrt(v / (1 - config.beta2**count)) + config.epsilon)
        if not decays(name):
            return step
        step = step + config.weight_decay * param
        norms = np.linalg.norm(param), np.linalg.norm(step)
        return step * (norms[0] / norms[1] if all(norms) else 1.0)

    assert_close(trained(config), in_float64(config, direction), ROUNDING)


@pytest.mark.parametrize(("size", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_lamb_scales_by_one_where_a_norm_is_zero(size, gradient):
    params: Any = {"layers": {"mlp": {"kernel": jnp.full((2, 4, 4), size)}}}
    config = OptimizerConfig(name="lamb", weight_decay=0.0)
    optimizer = make_optimizer(config, params)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    updates: Any = optimizer.update(gradients, optimizer.init(params), params)[0]
    # The first corrected step of Adam is the gradient's sign; epsilon is 1e-8 of it.
    np.testing.assert_allclose(updates["layers"]["mlp"]["kernel"], -gradient, rtol=1e-6)


def theirs(make: Callable[..., Any], *arguments: Any, **settings: Any) -> Callable[[int], float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return make(optimizer, *arguments, **settings).lr_lambdas[0]


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (3, 10), (10, 100), (99, 100), (37, 1001)])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
def test_schedule_is_transformers_without_its_first_step(schedule, warmup, steps):
    decay = (steps - warmup) // 2 or 1
    config = OptimizerConfig(
        schedule=schedule, learning_rate=1.0, warmup_fraction=warmup / steps, decay_fraction=decay / steps
    )
    expected = {
        "linear": lambda: theirs(optimization.get_linear_schedule_with_warmup, warmup + 1, steps + 1),
        "cosine": lambda: theirs(optimization.get_cosine_schedule_with_warmup, warmup + 1, steps + 1),
        "constant": lambda: theirs(optimization.get_constant_schedule_with_warmup, warmup + 1),
        "wsd": lambda: theirs(
            optimization.get_wsd_schedule, warmup + 1, decay, steps + 1, decay_type="linear"
        ),
    }[schedule]()
    found = np.asarray(jax.vmap(make_schedule(config, steps))(jnp.arange(steps)))
    # Both are at most 1; ours is computed in float32, whose cosine near pi is exact to 1e-7.
    np.testing.assert_allclose(found, [expected(step + 1) for step in range(steps)], rtol=0, atol=2e-7)
    assert expected(0) == 0

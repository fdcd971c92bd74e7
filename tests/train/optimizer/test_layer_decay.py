"""Each layer learns at its own rate, as PyTorch's parameter groups with rates of their own do."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest
from small_steps import take_steps, tiny_model

from flaxmill.model.functional import abstract_params
from flaxmill.model.params import flatten
from flaxmill.train.checkpoint.manifest import named_leaves
from flaxmill.train.optimizer.layer_decay import depth_factors
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer

MODEL = tiny_model(norm_position="pre")
PARAMS = abstract_params(MODEL)
DECAY = 0.5


def factors_of(model, decay=DECAY) -> dict[str, Any]:
    """{the first one or two names of a path: factor}; all paths that begin like this have the same factor."""
    found: dict[str, Any] = {}
    for path, factor in depth_factors(decay, abstract_params(model)).items():
        prefix = "/".join(path[:2] if path[0] == "encoder" else path[:1])
        assert found.setdefault(prefix, factor.tolist()) == factor.tolist(), path
    return found


def test_layers_of_all_groups_count_down_from_the_head():
    assert factors_of(MODEL) == {
        "embed": 0.5**5,
        "first_layers": [0.5**4],
        "layers": [0.5**3, 0.5**2],
        "last_layers": [0.5],
        "final_norm": 1.0,
    }


@pytest.mark.parametrize("head", ["classification", "mlm_nsp", "qa"])
def test_heads_learn_at_the_full_rate(head):
    factors = factors_of(tiny_model(head=head, causal=False, tie_embeddings=False))
    body = {"embed", "first_layers", "layers", "last_layers"}
    assert {factor for name, factor in factors.items() if name not in body} == {1.0}


def test_each_stack_of_an_encoder_decoder_counts_by_itself():
    model = tiny_model(
        encoder_layers=2, num_layers=3, layer_pattern=(), first_attention_norm=True, positions="relative"
    )
    assert factors_of(model) == {
        "embed": 0.5**4,  # below both stacks, the deeper of which has three layers
        "relative_bias": 0.5**4,
        "layers": [0.5**3, 0.5**2, 0.5],
        "final_norm": 1.0,
        "encoder/relative_bias": 0.5**3,
        "encoder/layers": [0.5**2, 0.5],
        "encoder/final_norm": 1.0,
    }


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_out_of_range_is_one_line(decay):
    with pytest.raises(ValueError, match=r"^optimizer.layer_decay=\S+ must be above 0 and at most 1$"):
        OptimizerConfig(layer_decay=decay)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_the_state_has_the_same_names_with_and_without(name):
    config = OptimizerConfig(name=name)
    plain = jax.eval_shape(make_optimizer(config, PARAMS).init, PARAMS)
    decayed = dataclasses.replace(config, layer_decay=DECAY)
    assert named_leaves(jax.eval_shape(make_optimizer(decayed, PARAMS).init, PARAMS)) == named_leaves(plain)


def test_steps_equal_those_of_torch_with_parameter_groups():
    """AdamW has decoupled weight decay: a group's rate scales both parts of an update."""
    import torch

    rate, num_steps = 0.01, 5
    config = OptimizerConfig(layer_decay=DECAY, weight_decay=0.1, beta2=0.999)
    random = np.random.default_rng(0)
    draw = lambda leaf: random.standard_normal(leaf.shape, np.float32)  # noqa: E731
    params = jax.tree.map(lambda leaf: np.float32(0.1) * draw(leaf), PARAMS)
    gradients = [jax.tree.map(draw, PARAMS) for _ in range(num_steps)]

    factors = depth_factors(DECAY, PARAMS)
    slices: list[tuple[Any, Any]] = []  # (path, layer or ...)
    for path, factor in factors.items():
        slices += [(path, layer) for layer in range(len(factor))] if factor.ndim else [(path, ...)]
    weights = [torch.nn.Parameter(torch.tensor(flatten(params)[path][layer])) for path, layer in slices]
    groups = [
        {
            "params": [weight],
            "lr": rate * float(factors[path][layer]),
            "weight_decay": 0.0 if path[-1] in ("bias", "scale") else 0.1,
        }
        for weight, (path, layer) in zip(weights, slices, strict=True)
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=config.epsilon)
    for gradient in gradients:
        for weight, (path, layer) in zip(weights, slices, strict=True):
            weight.grad = torch.tensor(flatten(gradient)[path][layer])
        reference.step()

    found = _train(make_optimizer(config, PARAMS), params, gradients, rate)
    for weight, (path, layer) in zip(weights, slices, strict=True):
        # Weights of order 0.1, rounded once a step.
        np.testing.assert_allclose(
            flatten(found)[path][layer], weight.detach().numpy(), rtol=0, atol=1e-6, err_msg=str(path)
        )


def _train(optimizer: optax.GradientTransformation, params: Any, gradients: list[Any], rate: float) -> Any:
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
    return params


@pytest.mark.slow
def test_a_step_moves_each_layer_by_its_factor():
    """Lion's updates have one size, so that what moved shows the rates."""
    options: dict[str, Any] = dict(
        name="lion", learning_rate=1e-3, schedule="constant", warmup_fraction=0.0, weight_decay=0.0
    )
    taken = take_steps(MODEL, OptimizerConfig(**options, layer_decay=DECAY, freeze=("*/bias",)), num_steps=1)
    factors = depth_factors(DECAY, PARAMS)
    before, after = flatten(taken.before.params), flatten(taken.after.params)
    for path in before:
        if path[-1] == "kernel":
            moved = np.abs(after[path] - before[path]).reshape(len(factors[path]), -1).max(1)
            np.testing.assert_allclose(moved, 1e-3 * factors[path], rtol=1e-3)

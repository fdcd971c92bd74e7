"""How a stack is cut: every layer keeps its place and kind, and only what repeats is scanned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, apply, init_params
from flaxmill.model.fields import LayerKind
from flaxmill.model.layer_plan import (
    layer_kinds,
    layer_slots,
    layers_with_experts,
    plan_layers,
    planned_layers,
)

ALTERNATING: tuple[LayerKind, ...] = ("global", "local")
EVERY_THIRD: tuple[LayerKind, ...] = ("global", "local", "local")


@pytest.mark.parametrize("num_layers", [1, 2, 5, 6])
@pytest.mark.parametrize("pattern", [(), ALTERNATING, EVERY_THIRD])
@pytest.mark.parametrize("first_attention_norm", [True, False])
def test_the_parts_put_together_are_the_stack(num_layers, pattern, first_attention_norm):
    config = ModelConfig(
        num_layers=num_layers, layer_pattern=pattern, window=4, first_attention_norm=first_attention_norm
    )
    plan = plan_layers(config)
    assert plan.first + plan.period * plan.num_periods + plan.last == planned_layers(config)
    assert tuple(layer.kind for layer in planned_layers(config)) == layer_kinds(config)
    assert num_layers == len(set(layer_slots(config)))
    assert len(plan.first) == (0 if first_attention_norm else 1)
    assert len(plan.last) < max(1, len(pattern))


def test_equal_layers_are_one_group():
    assert layer_slots(ModelConfig(num_layers=3)) == [("layers", 0), ("layers", 1), ("layers", 2)]


def test_modernbert_scans_seven_periods_after_its_first_layer():
    config = ModelConfig(num_layers=22, layer_pattern=EVERY_THIRD, window=128, first_attention_norm=False)
    plan = plan_layers(config)
    kinds = [[layer.kind for layer in layers] for layers in (plan.first, plan.period, plan.last)]
    assert kinds == [["global"], ["local", "local", "global"], []]
    assert plan.num_periods == 7


def test_a_period_ends_where_attention_and_experts_both_repeat():
    config = ModelConfig(num_layers=14, layer_pattern=ALTERNATING, window=4, num_experts=4, moe_every=3)
    plan = plan_layers(config)
    assert (len(plan.period), plan.num_periods, len(plan.last)) == (6, 2, 2)
    assert [depth for depth, layer in enumerate(planned_layers(config)) if layer.has_experts] == [2, 5, 8, 11]
    assert layers_with_experts(config) == 4
    assert layer_slots(config)[:4] == [
        ("dense_layers", 0),
        ("dense_layers", 1),
        ("layers", 0),
        ("dense_layers", 2),
    ]
    assert layer_slots(config)[-2:] == [("last_dense_layers", 0), ("last_dense_layers", 1)]


def test_layers_that_all_have_experts_are_one_group():
    config = ModelConfig(num_layers=3, num_experts=4)
    assert layer_slots(config) == layer_slots(ModelConfig(num_layers=3))


@pytest.mark.slow
@pytest.mark.parametrize("first_attention_norm", [True, False])
def test_a_stack_in_a_scan_equals_its_layers_one_by_one(first_attention_norm):
    changes = {"first_attention_norm": first_attention_norm, "layer_pattern": ALTERNATING, "window": 4}
    config = ModelConfig(
        num_layers=9, embed_dim=16, vocab_size=30, causal=True, head="lm", positions="rotary", num_experts=3,
        moe_every=2, **changes,
    )  # fmt: skip
    params = init_params(config, jax.random.key(0))
    batch = {"tokens": jnp.arange(24).reshape(2, 12)}
    unrolled = dataclasses.replace(config, scan_layers=False)
    np.testing.assert_allclose(
        apply(config, params, batch)["logits"], apply(unrolled, params, batch)["logits"], atol=1e-6
    )  # float32 sums that the compiler joins otherwise

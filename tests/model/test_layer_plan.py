"""How a stack is cut: every layer keeps its place and kind, and only what repeats is scanned."""

import pytest

from flaxmill.model import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layer_plan import layer_kinds, layer_slots, plan_layers

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
    assert plan.first + plan.period * plan.num_periods + plan.last == layer_kinds(config)
    assert sum(plan.sizes().values()) == num_layers == len(set(layer_slots(config)))
    assert len(plan.first) == (0 if first_attention_norm else 1)
    assert len(plan.last) < max(1, len(pattern))


def test_equal_layers_are_one_group():
    assert layer_slots(ModelConfig(num_layers=3)) == [("layers", 0), ("layers", 1), ("layers", 2)]


def test_modernbert_scans_seven_periods_after_its_first_layer():
    config = ModelConfig(num_layers=22, layer_pattern=EVERY_THIRD, window=128, first_attention_norm=False)
    plan = plan_layers(config)
    assert (plan.first, plan.period, plan.num_periods, plan.last) == (
        ("global",),
        ("local", "local", "global"),
        7,
        (),
    )

"""Fields of experts that make no sense are refused in one line that names the value, the rule and the fix."""

import pytest

from flaxmill.model import ModelConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"experts_per_token": 4},
            r"model.experts_per_token=4 is about experts, but model.num_experts is None",
        ),
        (
            {"load_balance_loss": 0.1},
            r"model.load_balance_loss=0.1 is about experts.*leave load_balance_loss out",
        ),
        ({"moe_every": 2}, r"model.moe_every=2 is about experts"),
        ({"num_experts": 0}, r"model.num_experts=0 must be at least 1"),
        ({"num_experts": 2, "experts_per_token": 3}, r"=3 is more than model.num_experts=2; use less"),
        ({"num_experts": 4, "experts_per_token": 0}, r"model.experts_per_token=0 must be at least 1"),
        ({"num_experts": 4, "expert_dim": 0}, r"model.expert_dim=0 must be at least 1"),
        ({"num_experts": 4, "expert_capacity": 0.0}, r"model.expert_capacity=0.0 must be a positive number"),
        ({"num_experts": 4, "shared_experts": -1}, r"model.shared_experts=-1 must be 0 or more"),
        ({"num_experts": 4, "router_z_loss": -0.1}, r"model.router_z_loss=-0.1 must be 0 or more"),
        (
            {"num_experts": 4, "moe_every": 3},
            r"=3 is more than model.num_layers=2, so that no layer has experts",
        ),
        ({"num_experts": 4, "encoder_layers": 2}, r"an encoder-decoder has no experts; leave one None"),
        (
            {"num_experts": 4, "lora_rank": 2, "lora_targets": ("query", "up")},
            r"lora_targets=up with .*no factors",
        ),
    ],
)
def test_a_bad_field_of_experts_is_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**fields)
    assert "\n" not in str(error.value)


def test_adapters_of_attention_are_fine_beside_experts():
    assert ModelConfig(num_experts=4, lora_rank=2).lora_projections == ("query", "value")

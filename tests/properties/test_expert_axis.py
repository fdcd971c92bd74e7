"""Ten steps with experts on different devices equal those of one device, in each form and on each mesh."""

from typing import Any

import numpy as np
import pytest
from parameters import each, in_turn
from small_steps import random_rows, take_steps, tiny_model

from flaxmill.model.layers import expert_exchange
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.optimizer.config import OptimizerConfig

pytestmark = pytest.mark.slow

STEPS = 10
# float32 sums have another order on every mesh, and ten updates carry that on.
TOLERANCE = 1e-5
EXPERTS: dict[str, Any] = dict(
    first_attention_norm=True, layer_pattern=(), num_layers=2, num_experts=8, gated_mlp=True,
    activation="silu", mlp_dim=24, dropout=0.1, load_balance_loss=0.02, router_z_loss=0.002,
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "all tokens": {},
    "no attention dropout": {"attention_dropout": 0.0},
    "shared, dense between": dict(
        num_layers=4, shared_experts=1, moe_every=2, layer_pattern=("local", "global"), remat="full"
    ),
    # 8 experts take 3 x 8 slots of a row of 12 tokens: two devices send tokens, four or eight send choices.
    "capacity": {"expert_capacity": 1.0},
    "much capacity": {"expert_capacity": 3.0, "experts_per_token": 4, "remat": "dots"},
}
ALONE: list[dict[str, int]] = [{"expert": size} for size in (2, 4, 8)]
TOGETHER: list[dict[str, Any]] = [
    {"fsdp": 2, "expert": 4},
    {"expert": 4, "tensor": 2},
    {"data": 2, "expert": 2, "tensor": 2},
    {"data": 2, "fsdp": 2, "expert": 2},
    {"fsdp": 2, "expert": 2, "tensor": 2, "sequence_parallel": True},
    {"data": 2, "expert": 4, "slices": 2},
]


def rows_with_padding(seed):
    rows = random_rows(seed)
    is_real = np.arange(rows["tokens"].shape[1]) < np.array([12, 12, 9, 3, 12, 11, 1, 12])[:, None]
    masked = ("mask", "documents", "weights")
    return rows | {name: rows[name] * is_real.astype(rows[name].dtype) for name in masked}


def steps_on(name, mesh, **changes):
    return take_steps(
        tiny_model(**EXPERTS | MODELS[name]),
        OptimizerConfig(learning_rate=1e-2),
        STEPS,
        mesh=MeshConfig(**{"data": 1, **mesh}),
        make_rows=rows_with_padding,
        **changes,
    ).metrics


def assert_same_steps(name, mesh, **changes):
    found, wanted = steps_on(name, mesh, **changes), steps_on(name, {}, **changes)
    for metric in ("loss", "causal_loss", "load_balance_loss", "router_z_loss", "grad_norm"):
        expected = [row[metric] for row in wanted]
        np.testing.assert_allclose([row[metric] for row in found], expected, rtol=TOLERANCE, err_msg=metric)
    np.testing.assert_array_equal(
        [row["expert_load"] for row in found], [row["expert_load"] for row in wanted]
    )
    assert wanted[-1]["router_z_loss"] < 0.99 * wanted[0]["router_z_loss"]  # routers moved


@pytest.mark.parametrize(
    ("name", "mesh"),
    [*each(["all tokens", "capacity"], ALONE), *in_turn(["all tokens", "capacity"], TOGETHER)],
)
def test_losses_and_gradient_norms_are_those_of_one_device(name, mesh):
    assert_same_steps(name, mesh)


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("shared, dense between", {"fsdp": 2, "expert": 4}),
        ("shared, dense between", {"expert": 4, "tensor": 2}),
        ("much capacity", {"data": 2, "expert": 4}),
        ("no attention dropout", {"expert": 4, "context": 2}),
        ("no attention dropout", {"fsdp": 2, "expert": 2, "context": 2}),
    ],
)
def test_other_models_train_as_on_one_device(name, mesh):
    assert_same_steps(name, mesh)


def test_microbatches_change_nothing_but_the_balance_of_each():
    """A sum of products is not the product of sums, so that loss is of a microbatch, on every mesh."""
    assert_same_steps("all tokens", {"expert": 4}, accumulate=2)


@pytest.mark.parametrize("mesh", [{"fsdp": 2, "expert": 4}, {"expert": 4, "tensor": 2}], ids=str)
def test_chunks_of_tokens_change_no_step(mesh, monkeypatch):
    wanted = steps_on("all tokens", mesh)
    monkeypatch.setattr(expert_exchange, "MOST_SLOT_BYTES", 4000)
    assert expert_exchange.num_chunks(12, 4 * 2 * 16 * 4) == 2
    take_steps.cache_clear()
    found = steps_on("all tokens", mesh)
    take_steps.cache_clear()
    for metric in ("loss", "grad_norm"):
        expected = [row[metric] for row in wanted]
        np.testing.assert_allclose([row[metric] for row in found], expected, rtol=TOLERANCE, err_msg=metric)
    assert [row["grad_norm"] for row in found] != [row["grad_norm"] for row in wanted]  # it summed in parts

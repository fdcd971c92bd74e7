"""Experts train the same on every mesh, and go on where they were interrupted."""

import dataclasses

import numpy as np
import pytest
from small_steps import take_steps, tiny_model

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import train
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.optimizer.optimizers import OptimizerConfig

pytestmark = pytest.mark.slow

STEPS = 10
MODELS = {
    "all tokens": dict(num_layers=2),
    "no attention dropout": dict(num_layers=2, attention_dropout=0.0),
    "capacity, shared, dense between": dict(
        num_layers=4, expert_capacity=1.0, shared_experts=1, moe_every=2, layer_pattern=("local", "global"),
        window=4, remat="full",
    ),
}  # fmt: skip


def steps_on(name, mesh, **changes):
    fields = dict(
        first_attention_norm=True, layer_pattern=(), num_experts=4, gated_mlp=True, activation="silu",
        mlp_dim=24, dropout=0.1, load_balance_loss=0.02, router_z_loss=0.002,
    )  # fmt: skip
    model = tiny_model(**fields | MODELS[name])
    # With the masks of seed 0 any rounding grows a hundredfold in these steps, whatever the mesh.
    optimizer = OptimizerConfig(learning_rate=1e-2)
    return take_steps(model, optimizer, STEPS, mesh=mesh, seed=2, **changes).metrics


CUBE = MeshConfig(data=2, fsdp=2, tensor=2)
SPLIT = MeshConfig(data=1, fsdp=4, tensor=2, sequence_parallel=True)


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("all tokens", CUBE),
        ("all tokens", SPLIT),
        ("capacity, shared, dense between", CUBE),
        ("capacity, shared, dense between", SPLIT),
        ("no attention dropout", MeshConfig(data=1, fsdp=2, context=2, tensor=2)),
    ],
)
def test_losses_are_unchanged_by_the_mesh(name, mesh):
    one, split = steps_on(name, MeshConfig(data=1)), steps_on(name, mesh)
    for metric in ("loss", "causal_loss", "load_balance_loss", "router_z_loss", "grad_norm"):
        # Sums over devices come in another order: float32 rounding, carried through 10 updates.
        expected = [row[metric] for row in one]
        np.testing.assert_allclose([row[metric] for row in split], expected, rtol=1e-5, err_msg=metric)
    np.testing.assert_array_equal([row["expert_load"] for row in split], [row["expert_load"] for row in one])
    assert (
        one[-1]["router_z_loss"] < 0.99 * one[0]["router_z_loss"]
    )  # routers moved, so errors had time to grow


def test_microbatches_give_the_same_loss_of_predictions_and_a_balance_of_their_own():
    whole = steps_on("all tokens", MeshConfig(data=1))[0]
    parts = steps_on("all tokens", MeshConfig(data=1), accumulate=2)[0]
    for name in ("causal_loss", "router_z_loss"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6)
    np.testing.assert_array_equal(parts["expert_load"], whole["expert_load"])
    # A mean of products is not the product of means, but near it.
    np.testing.assert_allclose(parts["load_balance_loss"], whole["load_balance_loss"], rtol=0.05)
    assert parts["load_balance_loss"] != whole["load_balance_loss"]


def test_an_interrupted_run_with_experts_continues_bit_for_bit(make_experiment, tmp_path, stop_after):
    model = dict(
        num_experts=4, moe_every=2, expert_capacity=1.5, shared_experts=1, load_balance_loss=0.01,
        router_z_loss=0.001, num_layers=4,
    )  # fmt: skip
    checkpoint = CheckpointConfig(every=3)
    straight = make_experiment(
        model=model, checkpoint=checkpoint, run_dir=str(tmp_path / "straight"), eval_every=4
    )
    train(straight)
    parts = dataclasses.replace(straight, run_dir=str(tmp_path / "parts"))
    train(parts, stop=stop_after(5))
    train(parts)
    times = ("step_seconds", "data_seconds", "tokens_per_second")
    rows = [
        [{key: value for key, value in row.items() if key not in times} for row in read_metrics(path)]
        for path in (tmp_path / "straight" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    ]
    assert [row for row in rows[1] if "loss" in row] == [row for row in rows[0] if "loss" in row]
    steps = [row for row in rows[0] if "loss" in row]
    assert len(steps) == 8
    assert len(steps[0]["expert_load"]) == 4
    evaluations = [row for row in rows[0] if "eval_loss" in row]
    assert {"eval_load_balance_loss", "eval_router_z_loss", "eval_expert_load"} <= evaluations[-1].keys()
    assert sum(evaluations[-1]["eval_expert_load"]) == pytest.approx(1)
    last = [row for row in rows[1] if "eval_loss" in row][-1]
    assert last == evaluations[-1]

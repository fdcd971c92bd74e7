"""Losses of task heads: classes are weighed as in torch, padding has no effect, errors are squared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.data.example_batches import check_class_weights
from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import apply, init_params
from flaxmill.train.objectives.losses import combine, denominators, numerators

pytestmark = pytest.mark.slow

SHAPE: dict[str, Any] = {"vocab_size": 50, "max_positions": 16, "num_layers": 1, "embed_dim": 16}
SHAPE |= {"num_heads": 2, "causal": False, "initializer_std": 0.5}


def make_batch(**labels):
    random, num_rows = np.random.default_rng(0), 6
    lengths = random.integers(4, 13, num_rows)
    mask = (np.arange(12) < lengths[:, None]).astype(np.int32)
    tokens = random.integers(1, 50, (num_rows, 12)).astype(np.int32) * mask
    return {"tokens": tokens, "mask": mask, "documents": mask, "positions": np.arange(12) * mask} | labels


def loss_of(objective, config, batch):
    params = init_params(config, jax.random.key(0))
    sums = numerators(objective, config, params, batch, max_predictions=None)
    return combine(objective, 0.0, sums, denominators(objective, batch)), params


@pytest.mark.parametrize("scale", [1.0, 0.01])  # however little all of them weigh together
def test_weighed_classes_are_torchs(scale):
    import torch

    config = ModelConfig(**SHAPE, head="classification", num_labels=3)
    labels, class_weights = np.array([0, 2, 1, 1, 0, 2], np.int32), np.array([1.0, 0.2, 5.0], np.float32)
    class_weights = check_class_weights(tuple((class_weights * scale).tolist()), ("a", "b", "c"))
    batch = make_batch(labels=labels, weights=class_weights[labels])
    metrics, params = loss_of("classification", config, batch)
    logits = torch.tensor(np.asarray(apply(config, params, batch)["logits"]))
    criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor(class_weights))
    expected = criterion(logits, torch.tensor(labels, dtype=torch.long))
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-6)


def test_smoothed_classes_are_torchs():
    import torch

    config = ModelConfig(**SHAPE, head="classification", num_labels=3)
    labels = np.array([0, 2, 1, 1, 0, 2], np.int32)
    batch = make_batch(labels=labels, weights=np.ones(6, np.float32))
    params = init_params(config, jax.random.key(0))
    sums = numerators("classification", config, params, batch, max_predictions=None, label_smoothing=0.2)
    ours = combine("classification", 0.0, sums, denominators("classification", batch))["loss"]
    logits = torch.tensor(np.asarray(apply(config, params, batch)["logits"]))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    assert float(ours) == pytest.approx(float(criterion(logits, torch.tensor(labels).long())), rel=1e-6)


def test_labels_of_any_number_have_torchs_cross_entropies_and_counts():
    import torch

    config = ModelConfig(
        **SHAPE, head="classification", num_labels=3, problem_type="multi_label_classification"
    )
    labels = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], np.float32)
    batch = make_batch(labels=labels, weights=np.array([1, 1, 1, 1, 1, 0], np.float32))
    params = init_params(config, jax.random.key(0))
    sums = numerators("classification", config, params, batch, max_predictions=None)
    metrics = combine("classification", 0.0, sums, denominators("classification", batch))
    logits = torch.tensor(np.asarray(apply(config, params, batch)["logits"]))[:5]
    expected = torch.nn.BCEWithLogitsLoss()(logits, torch.tensor(labels[:5]))
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-6)
    found, truth = (logits > 0).numpy(), labels[:5] > 0
    assert float(metrics["accuracy"]) == pytest.approx((found == truth).all(1).mean())
    counts = [(found & truth).sum(0), (found & ~truth).sum(0), (~found & truth).sum(0)]
    np.testing.assert_array_equal(sums["label_counts"], np.stack(counts, axis=-1))


def test_numbers_have_squared_errors_and_no_accuracy():
    config = ModelConfig(**SHAPE, head="classification", num_labels=1)
    batch = make_batch(labels=np.zeros(6, np.float32), weights=np.ones(6, np.float32))
    metrics, _ = loss_of("classification", config, batch)
    assert set(metrics) == {"loss"}
    assert float(metrics["loss"]) > 0


@pytest.mark.parametrize(
    ("objective", "head", "labels"),
    [
        ("classification", "classification", {"labels": (), "weights": ()}),
        ("token_classification", "token_classification", {"targets": (12,), "weights": (12,)}),
        ("question_answering", "qa", {"starts": (), "ends": (), "weights": ()}),
    ],
)
def test_rows_beyond_the_end_change_nothing(objective, head, labels):
    config = ModelConfig(**SHAPE, head=head, num_labels=2)
    values = {
        name: np.ones((6, *shape), np.float32 if name == "weights" else np.int32)
        for name, shape in labels.items()
    }
    batch = make_batch(**values)
    padded = {name: np.concatenate([value, np.zeros_like(value[:2])]) for name, value in batch.items()}
    alone, _ = loss_of(objective, config, batch)
    beside, _ = loss_of(objective, config, padded)
    assert np.isfinite(float(beside["loss"]))
    for name, value in alone.items():
        assert float(beside[name]) == pytest.approx(float(value), rel=1e-6)
    gradient = jax.grad(lambda params: loss_with(params, objective, config, padded))(
        init_params(config, jax.random.key(0))
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def loss_with(params, objective, config, batch):
    sums = numerators(objective, config, params, batch, max_predictions=None)
    return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]


def test_counts_take_each_row_once_whatever_its_weight_and_none_beyond_the_end():
    config = ModelConfig(**SHAPE, head="classification", num_labels=3)
    labels = np.array([0, 2, 1, 1, 0, -1], np.int32)
    batch = make_batch(labels=labels, weights=np.array([0.5, 0, 3, 3, 0.5, 0], np.float32))
    batch: Any = {name: np.concatenate([value, np.zeros_like(value[:2])]) for name, value in batch.items()}
    params = init_params(config, jax.random.key(0))
    counts = np.asarray(
        numerators("classification", config, params, batch, max_predictions=None)["confusion"]
    )
    predicted = np.asarray(apply(config, params, batch)["logits"]).argmax(-1)
    expected = np.zeros((3, 3))
    np.add.at(expected, (labels[:5], predicted[:5]), 1)
    assert counts.tolist() == expected.tolist()

"""The loss is what it says: right at the start, on the right places, whatever the padding."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, apply, init_params
from flaxmill.train.objectives.losses import combine, denominators, numerators

pytestmark = pytest.mark.slow

GPT = ModelConfig(
    vocab_size=101, max_positions=16, num_layers=1, embed_dim=32, num_heads=4, causal=True, head="lm"
)
HYBRID = dataclasses.replace(GPT, causal=False)
BERT = dataclasses.replace(
    HYBRID,
    head="mlm_nsp",
    norm_position="post",
    embedding_norm=True,
    num_segments=2,
    activation="gelu",
    initializer="bert",
)
CONFIGS = {
    "causal": GPT,
    "mlm": dataclasses.replace(BERT, head="mlm"),
    "mlm_nsp": BERT,
    "hybrid": HYBRID,
}
every_objective = pytest.mark.parametrize("objective", ["causal", "mlm", "mlm_nsp", "hybrid"])
masked_objectives = pytest.mark.parametrize("objective", ["mlm", "mlm_nsp"])


def random_batch(objective, rows=6, num_tokens=16, vocab_size=101, seed=0):
    """Full rows of one document of random tokens; objectives that mask words mask a third of the places."""
    draw = np.random.default_rng(seed)
    shape = (rows, num_tokens)
    ones = np.ones(shape, np.int32)
    weights = np.ones(shape) if objective == "causal" else draw.random(shape) < 0.3
    batch = {
        "tokens": draw.integers(0, vocab_size, shape),
        "targets": draw.integers(0, vocab_size, shape),
        "positions": np.arange(num_tokens) * ones,
        "mask": ones,
        "documents": ones,
        "segments": ones * (np.arange(num_tokens) >= num_tokens // 2),
        "nsp_labels": draw.integers(0, 2, rows),
        "causal": np.arange(rows) % 2,
    }
    if objective != "hybrid":
        del batch["causal"]
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    return batch | {"weights": jnp.asarray(weights, jnp.float32)}


@functools.cache
def params_of(config):
    """Parameters that are drawn and moved off symmetry, so that every part shows."""

    def make():
        leaves, tree = jax.tree.flatten(init_params(config, jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return jax.jit(make)()


@functools.partial(jax.jit, static_argnames=("objective", "max_predictions", "chunk_tokens", "z_loss"))
def measure(objective, params, batch, max_predictions=None, chunk_tokens=None, z_loss=0.0):
    sums = numerators(
        objective,
        CONFIGS[objective],
        params,
        batch,
        max_predictions=max_predictions,
        chunk_tokens=chunk_tokens,
    )
    return combine(objective, z_loss, sums, denominators(objective, batch))


def loss_and_parts(objective, batch, **options):
    parts = measure(objective, params_of(CONFIGS[objective]), batch, **options)
    return {name: float(value) for name, value in parts.items()}


@pytest.mark.parametrize(
    ("objective", "std", "extra"),
    [
        ("causal", 0.02, 0.0),
        ("mlm", 0.02 * 0.8796, 0.0),  # truncated at two deviations and not rescaled
        ("mlm_nsp", 0.02 * 0.8796, math.log(2)),
        ("hybrid", 0.02, 0.0),
    ],
)
def test_the_first_loss_is_that_of_a_model_that_knows_nothing(objective, std, extra):
    """ln V + d sigma^2 / 2: logits are normal with variance d sigma^2, since the last norm has unit scale."""
    width, vocab_size = 768, 4000
    config = dataclasses.replace(
        CONFIGS[objective], embed_dim=width, num_heads=12, vocab_size=vocab_size, max_positions=32
    )
    batch = random_batch(objective, rows=8, num_tokens=32, vocab_size=vocab_size)

    @jax.jit
    def first_loss():
        params = init_params(config, jax.random.key(0))
        sums = numerators(objective, config, params, batch, max_predictions=None)
        return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]

    expected = math.log(vocab_size) + width * std**2 / 2 + extra
    assert float(first_loss()) == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "mlm_nsp", "hybrid"])
def test_targets_count_at_masked_places_alone(objective):
    batch = random_batch(objective)
    masked = batch["weights"] > 0
    elsewhere = batch | {"targets": jnp.where(masked, batch["targets"], (batch["targets"] + 7) % 101)}
    there = batch | {"targets": jnp.where(masked, (batch["targets"] + 7) % 101, batch["targets"])}
    assert loss_and_parts(objective, elsewhere) == loss_and_parts(objective, batch)
    assert loss_and_parts(objective, there)["loss"] != loss_and_parts(objective, batch)["loss"]


@pytest.mark.slow
@masked_objectives
def test_gathering_the_masked_places_changes_nothing(objective):
    batch = random_batch(objective)
    most = int((batch["weights"] > 0).sum(1).max())
    plain = loss_and_parts(objective, batch)
    for num_places in (most, most + 3):
        gathered = loss_and_parts(objective, batch, max_predictions=num_places)
        # Same sums in another order: float32 rounding.
        assert gathered == pytest.approx(plain, rel=1e-6)
    too_few = loss_and_parts(objective, batch, max_predictions=most - 1)
    assert too_few["loss"] != pytest.approx(plain["loss"], rel=1e-4)


@pytest.mark.slow
@every_objective
def test_chunks_change_neither_the_loss_nor_its_gradient(objective):
    batch, params = random_batch(objective), params_of(CONFIGS[objective])
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda p, chunk: measure(objective, p, batch, chunk_tokens=chunk)["loss"]),
        static_argnums=1,
    )
    plain_loss, plain_grads = value_and_grad(params, None)
    loss, grads = value_and_grad(params, 5)  # 16 tokens: four chunks, the last filled up
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain_grads))
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(plain_grads), strict=True):
        # A leaf whose true gradient is zero (a key bias) holds rounding errors of the others' size.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", "mlm", "mlm_nsp"])
def test_rows_of_padding_change_nothing(objective):
    batch = random_batch(objective)
    empty = {name: jnp.zeros_like(value[:2]) for name, value in batch.items()}
    padded = {name: jnp.concatenate([batch[name], empty[name]]) for name in batch}
    # Another batch shape may sum in another order: float32 rounding.
    assert loss_and_parts(objective, padded) == pytest.approx(loss_and_parts(objective, batch), rel=1e-6)


@pytest.mark.slow
def test_empty_rows_of_both_kinds_leave_the_hybrid_its_loss():
    batch = random_batch("hybrid")
    empty = {name: jnp.zeros_like(value[:2]) for name, value in batch.items()} | {"causal": jnp.arange(2)}
    padded = {name: jnp.concatenate([batch[name], empty[name]]) for name in batch}
    assert loss_and_parts("hybrid", padded) == pytest.approx(loss_and_parts("hybrid", batch), rel=1e-6)


def test_the_hybrid_loss_weighs_each_term_by_its_share_of_rows():
    batch = random_batch("hybrid")
    batch["causal"] = jnp.array([1, 0, 0, 0, 0, 1])
    parts = loss_and_parts("hybrid", batch)
    expected = 2 / 6 * parts["causal_loss"] + 4 / 6 * parts["mlm_loss"]
    assert parts["loss"] == pytest.approx(expected, rel=1e-6)
    assert parts["causal_loss"] != pytest.approx(parts["mlm_loss"], rel=1e-3)


def test_rows_of_the_hybrid_of_one_kind_give_that_loss_alone():
    batch = random_batch("hybrid")
    as_causal = batch | {"causal": jnp.ones(6, jnp.int32)}
    parts = loss_and_parts("hybrid", as_causal)
    assert parts["loss"] == pytest.approx(parts["causal_loss"], rel=1e-6)
    assert parts["mlm_loss"] == 0
    as_gpt = {name: value for name, value in batch.items() if name != "causal"}
    gpt_loss = measure("causal", params_of(HYBRID), as_gpt)["loss"]  # the same parameters under a causal mask
    assert parts["loss"] == pytest.approx(float(gpt_loss), rel=1e-6)


def test_bert_adds_its_two_losses():
    parts = loss_and_parts("mlm_nsp", random_batch("mlm_nsp"))
    assert parts["loss"] == pytest.approx(parts["mlm_loss"] + parts["nsp_loss"], rel=1e-6)
    assert min(parts["mlm_loss"], parts["nsp_loss"]) > 0


@pytest.mark.slow
@every_objective
def test_z_loss_adds_the_mean_squared_log_partition(objective):
    batch, config = random_batch(objective), CONFIGS[objective]
    sums = jax.jit(
        lambda params: numerators(objective, config, params, batch, max_predictions=None)["log_z_squared"]
    )(params_of(config))
    plain, added = (loss_and_parts(objective, batch, z_loss=z_loss) for z_loss in (0.0, 0.01))
    expected = 0.01 * float(sums) / float(batch["weights"].sum())
    assert "z_loss" not in plain
    assert added["z_loss"] == pytest.approx(expected, rel=1e-6)
    assert added["loss"] - plain["loss"] == pytest.approx(
        expected, rel=1e-3
    )  # the difference of large numbers


def test_loss_and_accuracy_are_those_of_the_logits():
    batch, params = random_batch("causal"), params_of(GPT)
    logits = np.asarray(jax.jit(lambda p: apply(GPT, p, batch)["logits"])(params), np.float64)
    batch["targets"] = jnp.where(jnp.arange(16) < 8, logits.argmax(-1), logits.argmin(-1)).astype(jnp.int32)
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, np.asarray(batch["targets"])[..., None], -1)[..., 0]
    parts = loss_and_parts("causal", batch)
    assert parts["loss"] == pytest.approx((log_z - picked).mean(), rel=1e-6)
    assert parts["causal_accuracy"] == 0.5


@every_objective
def test_a_batch_without_any_weight_gives_zero_and_not_nan(objective):
    batch = random_batch(objective)
    batch |= {"weights": jnp.zeros_like(batch["weights"]), "mask": jnp.zeros_like(batch["mask"])}
    assert loss_and_parts(objective, batch)["loss"] == 0


@pytest.mark.parametrize("objective", ["causal", "mlm_nsp", "hybrid"])
def test_sums_of_parts_of_a_batch_add_up_to_those_of_the_whole(objective):
    batch, config = random_batch(objective), CONFIGS[objective]
    sums = jax.jit(lambda params, rows: numerators(objective, config, params, rows, max_predictions=None))
    params = params_of(config)
    halves = [jax.tree.map(lambda x, i=i: x[3 * i : 3 * i + 3], batch) for i in range(2)]
    added = jax.tree.map(jnp.add, *(sums(params, half) for half in halves))
    whole = sums(params, batch)
    assert added.keys() == whole.keys()
    for name in whole:
        assert float(added[name]) == pytest.approx(float(whole[name]), rel=1e-5), name


@pytest.mark.parametrize("objective", ["causal", "mlm", "hybrid"])
def test_smoothed_labels_are_torchs_in_loss_and_gradient(objective):
    import torch

    config, batch, share = CONFIGS[objective], random_batch(objective), 0.1
    if objective == "hybrid":
        batch["causal"] = jnp.ones_like(batch["causal"])  # one term alone, so that torch's mean is ours

    def loss_of(params):
        sums = numerators(objective, config, params, batch, max_predictions=None, label_smoothing=share)
        return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]

    ours, gradient = jax.jit(jax.value_and_grad(loss_of))(params_of(config))
    logits, pull = jax.vjp(lambda params: apply(config, params, batch)["logits"], params_of(config))
    theirs = torch.tensor(np.asarray(logits), requires_grad=True)
    chosen = torch.tensor(np.asarray(batch["weights"]) > 0)
    targets = torch.tensor(np.asarray(batch["targets"]), dtype=torch.long)
    loss = torch.nn.functional.cross_entropy(theirs[chosen], targets[chosen], label_smoothing=share)
    loss.backward()
    assert theirs.grad is not None
    assert float(ours) == pytest.approx(float(loss.detach()), rel=1e-6)
    expected = pull(jnp.asarray(theirs.grad.numpy()))[0]
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    # float32 rounding of sums over all rows, relative to the largest gradient.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * max(largest, 1.0)), gradient, expected
    )


def test_smoothed_labels_change_the_loss_and_not_the_accuracy():
    batch = random_batch("causal")
    plain = measure("causal", params_of(GPT), batch)
    sums = numerators("causal", GPT, params_of(GPT), batch, max_predictions=None, label_smoothing=0.2)
    smoothed = combine("causal", 0.0, sums, denominators("causal", batch))
    (accuracy,) = (name for name in plain if name.endswith("accuracy"))
    assert float(smoothed[accuracy]) == float(plain[accuracy])
    assert float(smoothed["loss"]) != pytest.approx(float(plain["loss"]), rel=1e-3)

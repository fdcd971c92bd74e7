"""Slots: each choice of a token has one of its expert's own, and a buffer that is full takes no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers.expert_slots import (
    block_slots,
    buffer_slots,
    collect,
    of_slots,
    ragged_slots,
    row_capacity,
    spread,
)

NUM_EXPERTS = 6


def random_choices(rows=3, tokens=7, k=2):
    """[B,T,k] different experts of each token; some tokens are padding."""
    rng = np.random.default_rng(0)
    chosen = np.stack([rng.permutation(NUM_EXPERTS - 1)[:k] for _ in range(rows * tokens)])  # the last: none
    chosen[rng.random(rows * tokens) < 0.3] = NUM_EXPERTS
    return jnp.asarray(chosen.reshape(rows, tokens, k), jnp.int32)


def experts_of_slots(slots, num_slots):
    """The expert that owns each slot, NUM_EXPERTS where none does."""
    sizes, experts = slots.groups
    if sizes is not None:
        owners = np.repeat(np.arange(NUM_EXPERTS), sizes)
        return np.append(owners, np.full(num_slots - len(owners), NUM_EXPERTS))
    experts_N = np.arange(NUM_EXPERTS) if experts is None else np.asarray(experts)
    return np.repeat(experts_N, num_slots // len(experts_N))


@pytest.mark.parametrize("tokens", [1, 7, 40])
@pytest.mark.parametrize(
    "make",
    [ragged_slots, block_slots, lambda experts, num: buffer_slots(experts, num, experts.shape[1])],
    ids=["ragged", "blocks", "buffers"],
)
def test_each_choice_has_a_slot_of_its_expert_and_padding_has_none(make, tokens):
    experts_BTk = random_choices(tokens=tokens)
    slots = make(experts_BTk, NUM_EXPERTS)
    num_slots, chosen = len(slots.tokens), np.asarray(experts_BTk).reshape(-1)
    places = np.asarray(slots.places).reshape(-1)
    real = chosen < NUM_EXPERTS
    assert (places[~real] == num_slots).all()
    assert len(set(places[real])) == real.sum()
    np.testing.assert_array_equal(experts_of_slots(slots, num_slots)[places[real]], chosen[real])
    np.testing.assert_array_equal(slots.choices[places[real]], np.flatnonzero(real))
    assert (np.delete(slots.choices, places[real]) == len(chosen)).all()


def test_a_full_buffer_keeps_likelier_choices_and_then_earlier_tokens():
    #            token 0 likes 1 best, token 1 likes 0 best, and so on
    experts_BTk = jnp.array([[[1, 0], [0, 2], [0, 1], [0, 2]], [[4, 0], [3, 4], [3, 0], [2, 0]]])
    slots = buffer_slots(experts_BTk, NUM_EXPERTS, 2)
    kept = np.asarray(slots.places).reshape(2, 4, 2) < len(slots.tokens)
    assert kept[0].tolist() == [[True, False], [True, True], [True, True], [False, True]]
    assert kept[1].tolist() == [[True, True], [True, True], [True, True], [True, False]]


@pytest.mark.parametrize(
    ("tokens", "capacity", "expected"),
    [(12, 1.0, 4), (12, 1.25, 5), (12, 0.1, 1), (12, 100.0, 12), (1, 1.0, 1)],
)
def test_capacity_is_a_multiple_of_an_even_share_of_the_row(tokens, capacity, expected):
    assert row_capacity((3, tokens, 2), NUM_EXPERTS, capacity) == expected
    assert row_capacity((3, tokens, 2), NUM_EXPERTS, None) is None


def test_spread_and_collect_are_each_others_transposes():
    slots = block_slots(random_choices(), NUM_EXPERTS)
    x_MD = jax.random.normal(jax.random.key(0), (21, 4))
    y_SD = jax.random.normal(jax.random.key(1), (len(slots.tokens), 4))
    there, back = (spread(x_MD, slots) * y_SD).sum(), (x_MD * collect(y_SD, slots)).sum()
    np.testing.assert_allclose(there, back, rtol=1e-5)  # float32 sums in another order
    np.testing.assert_array_equal(jax.vjp(lambda x: spread(x, slots), x_MD)[1](y_SD)[0], collect(y_SD, slots))
    np.testing.assert_array_equal(jax.vjp(lambda y: collect(y, slots), y_SD)[1](x_MD)[0], spread(x_MD, slots))


def test_a_slot_has_the_weight_of_its_choice_and_empty_ones_have_none():
    experts_BTk = random_choices()
    slots = block_slots(experts_BTk, NUM_EXPERTS)
    weights_Mk = jax.random.uniform(jax.random.key(0), (21, 2), minval=0.1)
    summed_M = collect(of_slots(weights_Mk, slots)[:, None], slots)[:, 0]
    real_Mk = np.asarray(experts_BTk).reshape(21, 2) < NUM_EXPERTS
    np.testing.assert_allclose(summed_M, (weights_Mk * real_Mk).sum(1), rtol=1e-6)  # one float32 sum

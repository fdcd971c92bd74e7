"""Dropout whose masks belong to rows."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.layers import dropout as dropout_module
from flaxmill.model.layers.dropout import (
    dropout,
    keep_mask,
    row_keys,
    share_kept,
    split_keys,
    stacked_keys,
)

KEYS = row_keys(jax.random.key(3), 8)
ONES = jnp.ones((8, 50, 40))


def test_a_rows_mask_does_not_depend_on_the_other_rows():
    whole = dropout(ONES, 0.3, KEYS)
    for row in range(8):
        np.testing.assert_array_equal(dropout(ONES[row : row + 1], 0.3, KEYS[row : row + 1])[0], whole[row])


def test_rows_and_splits_have_masks_of_their_own():
    first, second = split_keys(KEYS, 2)
    masks = [np.asarray(dropout(ONES, 0.5, keys) > 0) for keys in (KEYS, first, second)]
    drawn = np.concatenate(masks).reshape(24, -1)
    same = (drawn[:, None] == drawn[None]).mean(-1)[~np.eye(24, dtype=bool)]
    assert 0.4 < same.min() < same.max() < 0.6  # 2,000 fair coins


def test_the_mean_is_kept_and_the_rate_is_met():
    dropped = dropout(ONES, 0.3, KEYS)
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.02
    assert abs(float(dropped.mean()) - 1) < 0.03


def test_the_rate_is_exact_to_a_65536th_and_each_half_of_a_word_is_an_entry_of_its_own():
    assert abs(share_kept(0.3) - 0.7) <= 2**-17
    assert 0 < share_kept(0.999999) < 1e-4
    odd = keep_mask(KEYS, 0.5, (50, 41))
    assert odd.shape == (8, 50, 41)
    pairs = np.asarray(odd)[..., :40].reshape(-1, 2)  # 8,000 pairs of coins
    assert abs((pairs[:, 0] == pairs[:, 1]).mean() - 0.5) < 0.03


def test_on_tpu_each_entry_has_a_word_of_its_own_and_the_rate_is_met(monkeypatch):
    monkeypatch.setattr(dropout_module, "platform", lambda: "tpu")
    dropped = dropout(ONES, 0.3, KEYS)
    np.testing.assert_array_equal(dropout(ONES[3:4], 0.3, KEYS[3:4])[0], dropped[3])
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.02
    assert keep_mask(KEYS, 0.5, (50, 41)).shape == (8, 50, 41)


def test_without_keys_or_rate_nothing_is_dropped():
    assert dropout(ONES, 0.3, None) is ONES
    assert dropout(ONES, 0.0, KEYS) is ONES
    assert split_keys(None, 3) == (None, None, None)
    assert stacked_keys(KEYS, 5).shape == (5, 8)

"""The bits of JAX's generator do not depend on how its rounds are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry2x32_p

from flaxmill.model.random_bits import unroll_random_bits


# The answers that the authors of Threefry give: kat_vectors of Random123, "threefry2x32 20".
@pytest.mark.parametrize(
    ("key", "counter", "bits"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_bits_are_those_of_the_published_generator(key, counter, bits):
    unroll_random_bits()
    words = [jnp.full(3, word, jnp.uint32) for word in (*key, *counter)]
    # A function of its own: what was compiled before in this process has the program that it had.
    drawn = jax.jit(lambda *words: threefry2x32_p.bind(*words))(*words)
    np.testing.assert_array_equal(np.stack(drawn), np.repeat(np.uint32(bits), 3).reshape(2, 3))


def test_no_loop_is_left_to_compile():
    unroll_random_bits()
    drawing = jax.jit(lambda key: jax.random.normal(key, (100, 3))).lower(jax.random.key(7))
    assert "while" not in drawing.as_text()

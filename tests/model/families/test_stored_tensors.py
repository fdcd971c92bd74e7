"""Layouts of stored tensors: every one is a view on the way in and the same tensor again on the way out."""

import numpy as np
import pytest

from flaxmill.model.families.stored_tensors import (
    StoredTensor,
    copy_blocked,
    from_stored,
    stored_shape,
    to_stored,
)

EMBED, HEADS, HEAD_DIM = 6, 3, 5
QUERY = ("layers", "attention", "query", "kernel")
QUERY_BIAS = ("layers", "attention", "query", "bias")
OUT = ("layers", "attention", "out", "kernel")
KERNEL_SHAPE, BIAS_SHAPE = (EMBED, HEADS, HEAD_DIM), (HEADS, HEAD_DIM)

LAYOUTS = {
    "linear": (StoredTensor("q", transposed=True), QUERY, KERNEL_SHAPE, (15, 6)),
    "conv1d": (StoredTensor("q"), QUERY, KERNEL_SHAPE, (6, 15)),
    "linear out": (StoredTensor("o", transposed=True), OUT, (HEADS, HEAD_DIM, EMBED), (6, 15)),
    "conv1d out": (StoredTensor("o"), OUT, (HEADS, HEAD_DIM, EMBED), (15, 6)),
    "bias": (StoredTensor("b"), QUERY_BIAS, BIAS_SHAPE, (15,)),
    "row": (StoredTensor("b", as_row=True), ("lm_head", "bias"), (7,), (1, 7)),
    "scale": (StoredTensor("s"), ("final_norm", "scale"), (6,), (6,)),
    "embedding": (StoredTensor("e"), ("embed", "tokens", "embedding"), (7, 6), (7, 6)),
    "fused conv1d": (StoredTensor("qkv", parts=3), QUERY, KERNEL_SHAPE, (6, 45)),
    "fused linear": (StoredTensor("qkv", transposed=True, parts=3), QUERY, KERNEL_SHAPE, (45, 6)),
    "fused bias": (StoredTensor("qkv", parts=3), QUERY_BIAS, BIAS_SHAPE, (45,)),
    "interleaved": (
        StoredTensor("qkv", transposed=True, parts=3, interleaved=True), QUERY, KERNEL_SHAPE, (45, 6)
    ),
    "interleaved bias": (StoredTensor("qkv", parts=3, interleaved=True), QUERY_BIAS, BIAS_SHAPE, (45,)),
}  # fmt: skip


def numbered(shape) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def parts_of(stored: StoredTensor) -> list[StoredTensor]:
    return [
        StoredTensor(stored.name, stored.transposed, part, stored.parts, stored.interleaved, stored.as_row)
        for part in range(stored.parts)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_has_the_shape_that_torch_gives_it(layout):
    stored, path, shape, file_shape = LAYOUTS[layout]
    assert stored_shape(stored, path, shape) == file_shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_parameter_is_a_view_of_the_stored_tensor(layout):
    stored, _, shape, file_shape = LAYOUTS[layout]
    array = numbered(file_shape)
    values = from_stored(stored, array, shape)
    assert values.shape == shape
    assert np.shares_memory(values, array)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_parts_together_are_the_stored_tensor_again(layout):
    stored, _, shape, file_shape = LAYOUTS[layout]
    array = numbered(file_shape)
    parts = [from_stored(part, array, shape) for part in parts_of(stored)]
    np.testing.assert_array_equal(to_stored(stored, parts, file_shape), array)


def test_a_linear_is_transposed_and_its_outputs_are_heads():
    array = numbered((HEADS * HEAD_DIM, EMBED))
    kernel = from_stored(StoredTensor("q", transposed=True), array, KERNEL_SHAPE)
    for head in range(HEADS):
        rows = array[head * HEAD_DIM : (head + 1) * HEAD_DIM]
        np.testing.assert_array_equal(kernel[:, head], rows.T)


def test_parts_follow_each_other_unless_they_are_interleaved():
    array = numbered((3 * HEADS * HEAD_DIM,))
    follows = from_stored(StoredTensor("qkv", part=1, parts=3), array, BIAS_SHAPE)
    np.testing.assert_array_equal(follows, array[15:30].reshape(BIAS_SHAPE))
    alternates = from_stored(StoredTensor("qkv", part=1, parts=3, interleaved=True), array, BIAS_SHAPE)
    np.testing.assert_array_equal(alternates, array.reshape(HEADS, 3, HEAD_DIM)[:, 1])


@pytest.mark.parametrize("shape", [(40, 33), (5, 3, 33), (33,), (3, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_copying_in_blocks_is_copying(shape, dtype):
    source = numbered(shape[::-1]).astype(dtype).T
    target = np.full(shape, np.nan, np.float32)
    copy_blocked(target, source)
    np.testing.assert_array_equal(target, source.astype(np.float32))

"""Texts of any lengths fill few rows of few widths."""

import numpy as np
import pytest

from flaxmill.train.inference.packed_rows import LEAST_WIDTH, num_slots, pack


def draw(num, longest, seed=0):
    """Texts of random lengths, all tokens of a text with its number + 1."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, num)
    return [[number + 1] * int(length) for number, length in enumerate(lengths)]


def check(texts, batches):
    """Every text stands whole in the one place that its slot names."""
    found = {}
    for rows in batches:
        for row, slot in np.argwhere(rows.numbers >= 0):
            number, start = rows.numbers[row, slot], rows.starts[row, slot]
            length = len(texts[number])
            assert rows.tokens[row, start : start + length].tolist() == texts[number]
            assert np.flatnonzero(rows.documents[row] == slot + 1).tolist() == [*range(start, start + length)]
            assert number not in found
            found[number] = row
        assert not rows.tokens[rows.documents == 0].any()
    assert sorted(found) == [number for number, text in enumerate(texts) if text]


@pytest.mark.parametrize("longest", [3, 40, 200, 1000])
def test_every_text_is_whole_in_one_place(longest):
    texts = [*draw(300, longest), []]
    check(texts, list(pack(texts, batch_size=8)))


def test_little_is_padding():
    texts = draw(2000, 60)
    batches = list(pack(texts, batch_size=32))
    num_rows = sum((rows.documents > 0).any(1).sum() for rows in batches)  # the last batch has empty ones
    assert sum(map(len, texts)) / (num_rows * LEAST_WIDTH) > 0.97
    assert {rows.tokens.shape for rows in batches} == {(32, LEAST_WIDTH)}


def test_few_shapes_serve_all_lengths():
    shapes = {rows.tokens.shape for rows in pack(draw(3000, 700), batch_size=32)}
    assert {width for _, width in shapes} <= {64, 128, 256, 512, 1024}
    assert len(shapes) <= 5
    assert all(rows * width <= 32 * LEAST_WIDTH for rows, width in shapes)


def test_few_texts_make_few_rows():
    (rows,) = pack(draw(3, 20), batch_size=32)
    assert rows.tokens.shape == (1, LEAST_WIDTH)
    assert rows.numbers.shape == (1, num_slots(LEAST_WIDTH))


def test_no_row_is_wider_than_the_model():
    texts = [[1] * 90, [2] * 100, [3] * 5]
    batches = list(pack(texts, batch_size=4, limit=100))
    check(texts, batches)
    assert {rows.tokens.shape[1] for rows in batches} == {100}


def test_rows_divide_over_devices():
    batches = list(pack(draw(50, 60), batch_size=3, multiple=4))
    assert all(len(rows.tokens) % 4 == 0 for rows in batches)


def test_texts_may_be_kept_apart():
    texts = draw(10, 30)
    batches = list(pack(texts, batch_size=16, shares=False))
    check(texts, batches)
    assert all((rows.numbers >= 0).sum(1).max() == 1 for rows in batches)


def test_no_texts_make_no_rows():
    assert list(pack([], batch_size=4)) == list(pack([[]], batch_size=4)) == []

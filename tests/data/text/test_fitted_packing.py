"""Whole documents and sentences in padded rows: none is lost, torn or mixed with another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.config import Packing
from flaxmill.data.draws import uniform
from flaxmill.data.text.fitted_packing import FittedPacker
from flaxmill.data.text.packing import next_in_document, unpack_rows

FITS: tuple[Packing, ...] = ("best_fit", "first_fit")
documents_of_parts = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), max_size=30)


def number_tokens(lengths):
    """Documents whose tokens are numbered through, from 1, as parts of the given lengths."""
    places = iter(range(1, 1 + sum(map(sum, lengths))))
    return [[np.array([next(places) for _ in range(n)]) for n in parts] for parts in lengths]


def pack(documents, length, packing, open_rows=4, per_call=3):
    packer = FittedPacker(length, packing, open_rows)
    parts = [packer.add_parts(documents[i : i + per_call]) for i in range(0, len(documents), per_call)]
    parts.append(packer.finish())
    stored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return stored, unpack_rows(stored, stored["length"], range(length))


@settings(max_examples=150, deadline=None)
@given(
    lengths=documents_of_parts,
    length=st.integers(3, 24),
    packing=st.sampled_from(FITS),
    open_rows=st.integers(1, 6),
)
def test_fitted_rows_hold_every_token_once_and_whole_documents(lengths, length, packing, open_rows):
    documents = [[np.concatenate(parts)] for parts in number_tokens(lengths)]
    _, (tokens, numbers, positions) = pack(documents, length, packing, open_rows)
    inputs, real = tokens[:, :length], numbers[:, :length] > 0
    total = sum(map(sum, lengths))
    assert sorted(inputs[real].tolist()) == list(range(1, total + 1))
    starts = {int(parts[0][0]) for parts in documents}
    pieces = 0
    for row in range(len(tokens)):
        ids = numbers[row][numbers[row] > 0]
        assert (np.diff(ids) >= 0).all()  # contiguous, and padding only at the end
        assert set(ids.tolist()) == set(range(1, ids.max() + 1))
        for document in range(1, ids.max() + 1):
            places = np.flatnonzero(numbers[row, :length] == document)
            found = tokens[row, places]
            np.testing.assert_array_equal(np.diff(found), 1)
            np.testing.assert_array_equal(positions[row, places], np.arange(len(places)))
            pieces += 1
            # A document that fits is whole; the pieces of a longer one begin after whole rows.
            first = max(start for start in starts if start <= found[0])
            assert (found[0] - first) % length == 0
    assert pieces == sum(-(-sum(parts) // length) for parts in lengths)


@settings(max_examples=150, deadline=None)
@given(
    lengths=documents_of_parts,
    length=st.integers(3, 24),
    packing=st.sampled_from([*FITS, "full_sentences"]),
)
def test_labels_never_cross_documents_and_none_within_one_row_is_lost(lengths, length, packing):
    documents = number_tokens(lengths)
    if packing != "full_sentences":
        documents = [[np.concatenate(parts)] for parts in documents]
    _, (tokens, numbers, _) = pack(documents, length, packing)
    has_next = next_in_document(numbers)
    last = {int(parts[-1][-1]) for parts in documents}
    assert not last & set(tokens[:, :-1][has_next].tolist())
    np.testing.assert_array_equal(tokens[:, 1:][has_next], tokens[:, :-1][has_next] + 1)
    # Only where a row is padded does a token that is not its document's last have no target.
    without = set(tokens[:, :-1][(numbers[:, :-1] > 0) & ~has_next].tolist()) - last
    assert not without if packing != "full_sentences" else len(without) <= len(tokens)


@settings(max_examples=100, deadline=None)
@given(lengths=documents_of_parts, length=st.integers(3, 24))
def test_full_sentences_keep_the_order_and_tear_only_what_is_longer_than_a_row(lengths, length):
    documents = number_tokens(lengths)
    _, (tokens, numbers, _) = pack(documents, length, "full_sentences")
    inputs = tokens[:, :length][numbers[:, :length] > 0]
    assert inputs.tolist() == list(range(1, sum(map(sum, lengths)) + 1))
    parts = [part for parts in documents for part in parts]
    row_of = dict(zip(inputs.tolist(), np.nonzero(numbers[:, :length] > 0)[0].tolist(), strict=True))
    for part in parts:
        assert len(part) > length or len({row_of[token] for token in part.tolist()}) == 1
    begins = {int(parts[0][0]) for parts in documents}
    new = np.diff(numbers[:, :length], axis=1) > 0
    assert set(tokens[:, 1:length][new].tolist()) <= begins


@pytest.mark.parametrize("packing", [*FITS, "full_sentences"])
def test_rows_do_not_depend_on_how_documents_come(packing):
    lengths = (1 + uniform(3, np.arange(300)) * 30).astype(int)
    documents = [[part] for part in (parts[0] for parts in number_tokens([[n] for n in lengths]))]
    one, many = (pack(documents, 32, packing, 8, per_call)[0] for per_call in (1, 1000))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])


def test_best_fit_fills_the_smallest_gap_and_first_fit_the_oldest_row():
    documents = [[np.full(n, n)] for n in (5, 8, 2)]
    _, (best, numbers, _) = pack(documents, 10, "best_fit")
    assert best[numbers > 0].tolist() == [8] * 8 + [2] * 2 + [5] * 5  # what is full is written first
    _, (first, numbers, _) = pack(documents, 10, "first_fit")
    assert first[numbers > 0].tolist() == [5] * 5 + [2] * 2 + [8] * 8


def test_the_fullest_row_is_written_when_too_many_are_open():
    documents = [[np.full(n, n)] for n in (6, 7, 8)]
    stored, _ = pack(documents, 10, "best_fit", open_rows=2)
    assert stored["length"].tolist() == [7, 6, 8]


def test_a_long_document_has_a_target_at_each_cut():
    _, (tokens, numbers, _) = pack(number_tokens([[11]]), 4, "best_fit")
    np.testing.assert_array_equal(tokens, [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, 10, 11, 0, 0]])
    np.testing.assert_array_equal(numbers > 0, tokens > 0)


def test_documents_as_long_as_web_pages_fill_nearly_all_places():
    u, v = (uniform(1, n, np.arange(20_000)) for n in (0, 1))
    normal = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)
    lengths = np.clip(np.exp(6 + normal), 1, 20_000).astype(int)  # a median of 400 tokens
    packer = FittedPacker(1024, "best_fit")
    packer.add([np.zeros(n, np.int32) for n in lengths])
    packer.finish()
    assert packer.num_tokens == lengths.sum()
    assert packer.num_tokens / (packer.num_rows * 1024) > 0.98


def test_an_empty_stream_has_no_rows():
    packer = FittedPacker(4, "best_fit")
    assert len(packer.add([])["tokens"]) == len(packer.finish()["tokens"]) == 0

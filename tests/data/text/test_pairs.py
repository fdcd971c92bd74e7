"""Sentence pairs are planned, truncated and laid out as in BERT's create_pretraining_data.py."""

import numpy as np
import pytest

from flaxmill.data.config import PairTask
from flaxmill.data.draws import make_draw, uniform
from flaxmill.data.text import pairs
from flaxmill.data.text.corpora import Document
from flaxmill.data.text.pairs import (
    Window,
    cut_pairs,
    make_sentence_document,
    plan_ordered_pairs,
    plan_pairs,
    segments_of,
)
from flaxmill.data.text.sentences import split_sentences

CLS, SEP = 2, 3


def _document(number, sentence_lengths):
    """A token encodes its document and place: 1000 * (number + 1) + place."""
    places = iter(range(sum(sentence_lengths)))
    sentences = [[1000 * (number + 1) + next(places) for _ in range(length)] for length in sentence_lengths]
    return make_sentence_document(number, sentences)


def _window(num_documents=40, num_sentences=30):
    lengths = (uniform(9, np.arange(num_documents * num_sentences)) * 25).astype(int) + 1
    lengths = lengths.reshape(num_documents, num_sentences)
    return [_document(number, lengths[number].tolist()) for number in range(num_documents)]


def _cut(window, copy=0, sequence_length=64, short=0.1, seed=0, task: PairTask = "next"):
    return cut_pairs(
        window,
        seed=seed,
        copy=copy,
        sequence_length=sequence_length,
        short_pair_probability=short,
        cls_id=CLS,
        sep_id=SEP,
        task=task,
    )


def test_a_row_is_cls_a_sep_b_sep_and_padding():
    rows = _cut(_window())
    for tokens, first, second in zip(
        rows["tokens"], rows["first_length"], rows["second_length"], strict=True
    ):
        assert tokens[0] == CLS
        assert np.flatnonzero(tokens == SEP).tolist() == [first - 1, first + second - 1]
        assert not tokens[first + second :].any()
        assert min(first - 2, second - 1) >= 1
        for text in (tokens[1 : first - 1], tokens[first : first + second - 1]):
            np.testing.assert_array_equal(np.diff(text), 1)  # neighbouring tokens of one document


def test_label_one_is_another_document_and_label_zero_what_follows():
    rows = _cut(_window(), sequence_length=256)
    for tokens, first, second, label in zip(
        rows["tokens"], rows["first_length"], rows["second_length"], rows["label"], strict=True
    ):
        end_of_a, start_of_b = tokens[first - 2], tokens[first]
        assert (end_of_a // 1000 != start_of_b // 1000) == bool(label)
        if not label and first + second < 256:
            assert start_of_b == end_of_a + 1


def test_more_than_half_of_the_pairs_are_random():
    labels = np.concatenate([_cut(_window(), copy)["label"] for copy in range(40)])
    assert 0.5 < labels.mean() < 0.65
    # Documents of one sentence have nothing that follows it.
    assert _cut([_document(number, [9]) for number in range(10)])["label"].all()


def test_one_document_alone_gives_consecutive_pairs_only():
    assert not _cut(_window(num_documents=1))["label"].any()
    assert len(_cut([_document(0, [9])])["label"]) == 0


def test_every_sentence_is_used_or_put_back():
    window = _window()
    for index, document in enumerate(window):
        begin = 0
        for pair in plan_pairs(window, index, 10_000, 0.0, make_draw(index)):
            # Without truncation the next pair begins where the last one's text of this document ended.
            assert pair.first[0] == begin
            begin = pair.first[1] if pair.label else pair.second[1]
        assert begin == len(document.tokens)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [(10, 100, (10, 51)), (100, 10, (51, 10)), (50, 50, (31, 30)), (51, 50, (31, 30)), (20, 30, (20, 30))],
)
def test_truncation_shortens_the_longer_and_on_a_tie_b(first, second, left):
    a, b = pairs._truncate((0, first), (1000, 1000 + second), 61, make_draw(1))
    assert (a[1] - a[0], b[1] - b[0]) == left
    assert a[0] >= 0
    assert a[1] <= first
    assert b[0] >= 1000
    assert b[1] <= 1000 + second


def test_truncation_takes_from_front_and_back_alike():
    fronts = [pairs._trim((0, 200), 100, make_draw(number))[0] for number in range(400)]
    assert abs(np.mean(fronts) - 50) < 1.25  # five standard deviations of a mean of 400
    assert 3.5 < np.std(fronts) < 6.5


def test_a_tenth_of_the_documents_aim_at_short_pairs():
    long_documents = [_document(number, [1] * 400) for number in range(400)]
    rows = _cut(long_documents, short=0.0)
    assert (rows["first_length"] + rows["second_length"]).mean() > 60
    short = _cut(long_documents, short=1.0)
    assert (short["first_length"] + short["second_length"]).mean() < 30


def test_plans_depend_on_seed_copy_and_document_alone():
    window = _window()
    np.testing.assert_array_equal(_cut(window)["tokens"], _cut(window)["tokens"])
    assert (
        _cut(window, copy=1)["tokens"].shape != _cut(window)["tokens"].shape
        or (_cut(window, copy=1)["tokens"] != _cut(window)["tokens"]).any()
    )
    assert not np.array_equal(_cut(window, seed=1)["label"], _cut(window)["label"])


def test_segments_are_one_on_b_and_its_separator():
    mask, segments = segments_of(np.array([3, 4]), np.array([2, 4]), 8)
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])
    np.testing.assert_array_equal(segments, [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]])


def test_windows_hold_every_document_once_and_none_is_small():
    for num_documents in (1, 4, 7, 8, 9, 23):
        window, runs = Window(4), []
        for number in range(num_documents):
            runs.append(window.add(_document(number, [1])))
        runs = [run for run in [*runs, window.finish()] if run]
        assert [document.number for run in runs for document in run] == list(range(num_documents))
        assert min(map(len, runs)) >= min(4, num_documents)
        assert max(map(len, runs)) < 8


def test_prose_is_split_at_sentence_ends_and_blank_lines():
    text = 'He said "No." Then he left! Why?\nIt costs 3.5 e.g. today\n\nA title\n\n  \n- an item\n- another'
    assert split_sentences(Document(text, "prose")) == [
        'He said "No."',
        "Then he left!",
        "Why?",
        "It costs 3.5 e.g. today",
        "A title",
        "- an item",
        "- another",
    ]


def test_code_is_split_at_lines():
    assert split_sentences(Document("a = 1. B\n\n  b()\n", "lines")) == ["a = 1. B", "  b()"]


def test_ordered_pairs_are_neighbours_and_half_of_them_are_swapped():
    window = _window()
    rows = _cut(window, sequence_length=256, task="order")
    for tokens, first, second, label in zip(
        rows["tokens"], rows["first_length"], rows["second_length"], rows["label"], strict=True
    ):
        assert tokens[1] // 1000 == tokens[first] // 1000  # one document
        assert (tokens[1] > tokens[first]) == bool(label)
        if first + second < 256:
            earlier_end, later_start = (
                (tokens[first + second - 2], tokens[1]) if label else (tokens[first - 2], tokens[first])
            )
            assert later_start == earlier_end + 1
    labels = np.concatenate([_cut(window, copy, task="order")["label"] for copy in range(40)])
    assert abs(labels.mean() - 0.5) < 2.5 / np.sqrt(len(labels))  # five standard deviations


def test_ordered_pairs_use_every_sentence_but_a_last_one_left_alone():
    window = _window()
    for index, document in enumerate(window):
        begin = 0
        for pair in plan_ordered_pairs(window, index, 10_000, 0.0, make_draw(index)):
            earlier, later = (pair.second, pair.first) if pair.label else (pair.first, pair.second)
            assert (earlier[0], earlier[1]) == (begin, later[0])
            begin = later[1]
        assert begin in document.ends[-2:]
    assert len(_cut([_document(number, [9]) for number in range(10)], task="order")["label"]) == 0
    assert _cut([_document(0, [90, 90])], task="order")["first_length"].tolist() == [33]

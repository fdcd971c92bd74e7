"""Runs of held-out tokens are found in training tokens where they are, and nowhere else."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.duplicates import held_out_runs
from flaxmill.data.duplicates.held_out_runs import HeldOutRuns, choose_length

# So few different tokens that runs meet by chance.
documents_of_few_tokens = st.lists(st.lists(st.integers(0, 2), max_size=30), max_size=6)


def joined(documents):
    """Training documents as one array of tokens, and where each starts."""
    documents = [one for one in documents if len(one)]
    starts = np.zeros(sum(map(len, documents)), bool)
    starts[np.cumsum([0, *map(len, documents)])[:-1]] = True
    return np.concatenate([np.zeros(0, np.uint16), *(np.array(one, np.uint16) for one in documents)]), starts


def find_by_sets(held_out, train, length):
    """The definition, with a set of the training runs of each length."""
    least = -(-8 * length // 13)
    sizes = range(least, length + 1)
    runs = {tuple(one[at : at + size]) for one in train for size in sizes for at in range(len(one))}
    covered, checked, contaminated, total = 0, 0, 0, 0
    for document in held_out:
        if len(document) < least:
            continue
        size, is_covered = min(length, len(document)), np.zeros(len(document), bool)
        for at in range(len(document) - size + 1):
            if tuple(document[at : at + size]) in runs:
                is_covered[at : at + size] = True
        checked, total, covered = checked + 1, total + len(document), covered + is_covered.sum()
        contaminated += is_covered.mean() >= 0.8
    return {
        "contaminated_tokens": pytest.approx(covered / max(total, 1)),
        "num_contaminated": contaminated,
        "num_checked": checked,
    }


@settings(max_examples=200, deadline=None)
@given(documents_of_few_tokens, documents_of_few_tokens, st.integers(5, 16), st.integers(0, 6))
def test_statistics_are_those_of_sets_of_runs(held_out, train, length, cut):
    runs = HeldOutRuns(map(np.array, held_out), length=length)
    found = [runs.find(*joined(unit)) for unit in (train[:cut], train[cut:])]
    assert all((np.diff(one) > 0).all() for one in found)
    assert runs.statistics(found) == find_by_sets(held_out, train, length)


def test_runs_hold_about_as_much_text_whatever_the_tokens():
    assert choose_length(1000, 4500) == choose_length(1000, 4000) == 13
    assert choose_length(1000, 3000) == 17
    assert choose_length(1000, 1000) == 52
    assert choose_length(0, 0) == 13


def some_tokens(seed, count):
    return np.random.default_rng(seed).integers(0, 30_000, count)


def test_held_out_text_in_the_middle_of_a_training_document_is_found(monkeypatch):
    monkeypatch.setattr(held_out_runs, "_BLOCK", 1024)
    copied, other, short = some_tokens(0, 400), some_tokens(1, 400), some_tokens(2, 9)
    for place in (0, 700, 1000, 1023, 1024, 2900):
        train = some_tokens(3, 3000)
        train[place : place + 100] = copied[:100]
        train = np.concatenate([train, short])  # at the very end
        starts = np.zeros(len(train), bool)
        starts[0] = True
        runs = HeldOutRuns([copied, other, short])
        assert runs.statistics([runs.find(train, starts)]) == {
            "contaminated_tokens": pytest.approx(109 / 809),
            "num_contaminated": 1,
            "num_checked": 3,
        }


def test_a_run_does_not_cross_the_start_of_a_document():
    held_out = some_tokens(0, 20)
    runs = HeldOutRuns([held_out])
    starts = np.zeros(20, bool)
    starts[[0, 10]] = True
    assert len(runs.find(held_out, starts)) == 0
    starts[10] = False
    assert len(runs.find(held_out, starts)) == 8


def test_the_first_tokens_up_to_a_limit_are_looked_for():
    documents = [some_tokens(0, 50), some_tokens(1, 50), some_tokens(2, 50)]
    starts = np.zeros(150, bool)
    starts[::50] = True
    runs = HeldOutRuns(documents, max_tokens=70)
    found = runs.find(np.concatenate(documents), starts)
    assert len(found) == 38 + 8
    assert runs.statistics([found])["num_checked"] == 2


def test_tokens_that_no_held_out_document_has_are_in_no_run():
    runs = HeldOutRuns([np.full(20, 5)])
    assert len(runs.find(np.full(50, 60_000, np.uint16), np.zeros(50, bool))) == 0
    assert len(runs.find(np.full(50, 5, np.uint32), np.zeros(50, bool))) == 1


def test_runs_travel_to_another_process():
    runs = HeldOutRuns([some_tokens(0, 100)])
    train, starts = some_tokens(0, 100), np.zeros(100, bool)
    assert (pickle.loads(pickle.dumps(runs)).find(train, starts) == runs.find(train, starts)).all()

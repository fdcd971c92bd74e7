"""A document is dropped where it is like one that is kept, however the documents are divided into parts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.duplicates import near
from flaxmill.data.duplicates.near import BAND_LENGTH, NUM_BANDS, SignedPart, find_near
from flaxmill.data.duplicates.signatures import NO_WORDS, sign

NUM_SOURCES = 3


def divide(documents, cuts):
    """Parts of documents that are cut at these places."""
    signatures, is_held_out, is_gone = documents
    pieces = zip(*(np.split(one, cuts) for one in (signatures, is_held_out, is_gone)), strict=True)
    return [SignedPart(*piece) for piece in pieces]


def by_comparing_all(signatures, is_held_out, is_gone):
    """The definition: documents are compared with all that are kept before them and share a band."""
    is_near, kept = np.zeros(len(signatures), bool), []
    for number in np.argsort(~is_held_out, kind="stable"):
        own = signatures[number].reshape(NUM_BANDS, BAND_LENGTH)
        if is_gone[number] or (own == NO_WORDS).all():
            continue
        for other in kept:
            equal = own == signatures[other].reshape(NUM_BANDS, BAND_LENGTH)
            if equal.all(1).any() and equal.mean() >= 0.8:
                is_near[number] = True
                break
        else:
            kept.append(number)
    return is_near


@st.composite
def signed_documents(draw):
    """A few signatures with some of their numbers changed, so that chains of likeness arise."""
    count = draw(st.integers(0, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sources = rng.integers(0, 2**32 - 1, (NUM_SOURCES, 128), np.uint32)
    signatures = sources[rng.integers(0, NUM_SOURCES, count)]
    num_changed = rng.integers(0, 30, count)
    for signature, num in zip(signatures, num_changed, strict=True):
        first = rng.integers(0, 128)
        signature[np.arange(first, first + num) % 128] = rng.integers(0, 2**32 - 1, num)
    signatures[rng.random(count) < 0.1] = NO_WORDS
    return signatures, rng.random(count) < 0.3, rng.random(count) < 0.1


@settings(max_examples=200, deadline=None)
@given(signed_documents(), st.lists(st.integers(0, 14), max_size=3).map(sorted))
def test_near_duplicates_are_those_found_by_comparing_all_documents(documents, cuts):
    found = np.concatenate(find_near(divide(documents, cuts)))
    assert (found == by_comparing_all(*documents)).all()


def test_no_parts_and_empty_parts_have_no_duplicates():
    assert find_near([]) == []
    empty = SignedPart(np.zeros((0, 128), np.uint32), np.zeros(0, bool), np.zeros(0, bool))
    assert [len(one) for one in find_near([empty, empty])] == [0, 0]


def test_a_changed_word_in_a_long_text_makes_a_near_duplicate_and_another_text_none():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 3000, 400)) for _ in range(30)]
    copies = [text.replace(text.split()[200], "another") for text in texts[:10]]
    part = SignedPart(sign([*texts, *copies]), np.zeros(40, bool), np.zeros(40, bool))
    assert find_near([part])[0].nonzero()[0].tolist() == list(range(30, 40))


def test_of_near_duplicates_the_held_out_one_is_kept():
    rng = np.random.default_rng(1)
    text = " ".join(f"w{word}" for word in rng.integers(0, 3000, 400))
    signed = sign([text, text + " more", "Something else."])
    part = SignedPart(signed, np.array([False, True, False]), np.zeros(3, bool))
    assert find_near([part])[0].tolist() == [True, False, False]


def test_a_document_that_is_gone_has_no_near_duplicates():
    signed = sign(["One text that is long enough."] * 2)
    part = SignedPart(signed, np.zeros(2, bool), np.array([True, False]))
    assert not find_near([part])[0].any()


def test_documents_that_share_a_band_with_thousands_are_compared_with_few(monkeypatch):
    """Pages of one template share bands without being alike; comparing all pairs would take forever."""
    rng = np.random.default_rng(2)
    signatures = rng.integers(0, 2**32 - 1, (3000, 128), np.uint32)
    signatures[:, :BAND_LENGTH] = signatures[0, :BAND_LENGTH]
    signatures[-1] = signatures[-5]
    compared = []
    count = np.count_nonzero
    monkeypatch.setattr(near.np, "count_nonzero", lambda equal: compared.append(1) or count(equal))
    found = find_near([SignedPart(signatures, np.zeros(3000, bool), np.zeros(3000, bool))])[0]
    assert found.nonzero()[0].tolist() == [2999]
    assert len(compared) <= 3000 * near.MOST_COMPARED

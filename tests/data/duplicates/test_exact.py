"""One of several equal documents is kept, however the documents are divided into parts."""

import numpy as np
from digested_documents import divide
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.duplicates.exact import find_exact

documents_of_few_texts = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.booleans()), max_size=20
)


def copies_by_sets(documents):
    """The definition: a document is a copy if its text was seen before; held-out documents come first."""
    seen, is_copy = set(), [False] * len(documents)
    for side in (True, False):
        for number, (text, is_held_out) in enumerate(documents):
            if text and is_held_out is side:
                is_copy[number] = text in seen
                seen.add(text)
    return is_copy


@settings(max_examples=200)
@given(documents_of_few_texts, st.lists(st.integers(0, 20), max_size=3).map(sorted))
def test_copies_are_those_that_a_set_of_texts_finds(documents, cuts):
    parts = divide(documents, cuts)
    found = find_exact(parts)
    assert [len(one) for one in found] == [len(part.digests) for part in parts]
    assert np.concatenate(found).tolist() == copies_by_sets(documents)


def test_many_documents_are_judged_as_few_are():
    rng = np.random.default_rng(0)
    documents = [(str(number), bool(number % 7 == 0)) for number in rng.integers(1, 3000, 5000)]
    assert np.concatenate(find_exact(divide(documents, [1000, 1000, 4321]))).tolist() == copies_by_sets(
        documents
    )

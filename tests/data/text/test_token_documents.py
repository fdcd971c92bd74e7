"""Ids become documents that end at their end token, and are checked against the vocabulary."""

import functools
import itertools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.text import token_documents
from flaxmill.data.text.token_documents import Vocabulary, as_ids, cut_at_ends, read_token_file, row_of_ids

END = 7


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 9), max_size=60),
    cuts=st.lists(st.integers(0, 60)),
    longest=st.integers(1, 12),
)
def test_documents_join_to_the_ids_and_end_at_each_end_token(ids, cuts, longest):
    places = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    array = np.array(ids, np.uint16)
    blocks = [array[start:stop] for start, stop in itertools.pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_documents, "MAX_DOCUMENT_TOKENS", longest)
        found = [document.tolist() for document in cut_at_ends(blocks, END)]
        in_one_block = [document.tolist() for document in cut_at_ends([array], END)]
    assert functools.reduce(operator.iadd, found, []) == ids
    assert found == in_one_block
    for document in found:
        assert END not in document[:-1]
        assert 1 <= len(document) <= longest
    ends_early = [document for document in found[:-1] if document[-1] != END]
    assert all(len(document) == longest for document in ends_early)


def test_without_an_end_token_only_length_cuts(monkeypatch):
    monkeypatch.setattr(token_documents, "MAX_DOCUMENT_TOKENS", 4)
    assert [len(document) for document in cut_at_ends([np.arange(10)], None)] == [4, 4, 2]


def test_an_id_beyond_the_vocabulary_is_named_with_its_document(tmp_path):
    np.array([1, 2, END, 3, 60_000, END], np.uint16).tofile(tmp_path / "a.bin")
    vocabulary = Vocabulary("gpt2/tokenizer.json", 50_257, END)
    message = (
        r"^the document at token 4 of .*a\.bin has the id 60000, and data\.tokenizer=gpt2/tokenizer\.json "
        r"has 50,257; name the tokenizer that the ids are from, or, for a \.bin, another data\.token_dtype$"
    )
    with pytest.raises(ValueError, match=message):
        list(read_token_file(tmp_path / "a.bin", "uint16", vocabulary))


def test_an_end_token_alone_is_no_document(tmp_path):
    np.array([END, 1, END, END, 2], np.uint16).tofile(tmp_path / "a.bin")
    found = list(read_token_file(tmp_path / "a.bin", "uint16", Vocabulary("t", 10, END)))
    assert [document.ids.tolist() for document in found if document.ids is not None] == [[1, END], [2]]


def test_a_negative_id_is_no_id():
    with pytest.raises(ValueError, match=r"row 3 has the id -1"):
        list(row_of_ids(np.array([5, -1]), "row 3", Vocabulary("t", 10, None)))


@pytest.mark.parametrize("value", [None, "1 2", [], [1.0], [True], [1, None], [2**70], {"a": 1}, 5])
def test_only_a_list_of_integers_is_ids(value):
    assert as_ids(value) is None


def test_a_list_of_integers_is_ids():
    ids = as_ids([1, 2])
    assert ids is not None
    assert ids.tolist() == [1, 2]

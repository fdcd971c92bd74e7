"""A word a line, a blank line between sentences: first column the word, last the tag."""

import pytest

from flaxmill.data.conll import read_conll

COLUMNS = """-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter\tB-PER
New York\tB-LOC
"""


def write(tmp_path, text):
    path = tmp_path / "a.conll"
    path.write_text(text)
    return path


def test_sentences_have_words_and_last_columns(tmp_path):
    path = write(tmp_path, COLUMNS)
    rows = list(read_conll(path, "words", "tags"))
    assert [row.values for row in rows] == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter", "New York"], "tags": ["B-PER", "B-LOC"]},
    ]
    assert [row.place for row in rows] == [f"row 1 (line 3) of {path}", f"row 2 (line 6) of {path}"]


def test_words_alone_are_read_where_no_tags_are_wanted(tmp_path):
    rows = read_conll(write(tmp_path, "a\nb\n\n\n\nc\n"), "text", None)
    assert [row.values for row in rows] == [{"text": ["a", "b"]}, {"text": ["c"]}]


def test_a_word_without_a_tag_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^line 2 of .*a.conll cannot be read \('b' has no tag beside it\)"):
        list(read_conll(write(tmp_path, "a O\nb\n"), "text", "label"))

"""CoNLL files have a word per line and a blank line between sentences; the last column is the tag."""

import subprocess

import pytest

from flaxmill.data.files.conll import read_conll

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


def read(tmp_path, text, tag_column="tags"):
    return [row.values for row in read_conll(write(tmp_path, text), "words", tag_column)]


def test_comments_stand_before_a_sentence_and_a_sign_inside_one_is_a_word(tmp_path):
    text = (
        "# id 1f\tdomain=en\nAna _ _ B-PER\nsings _ _ O\n# NN _ O\n\n"
        "#\thttp://example.com\n# sent_id = 2\n#newdoc\n\nPorto _ _ B-LOC\nrains _ _ O\n"
    )
    assert read(tmp_path, text) == [
        {"words": ["Ana", "sings", "#"], "tags": ["B-PER", "O", "O"]},
        {"words": ["Porto", "rains"], "tags": ["B-LOC", "O"]},
    ]


def test_a_hashtag_begins_a_sentence(tmp_path):
    assert read(tmp_path, "#mill\tO\n#1\tB\n\n#river\tO\n") == [
        {"words": ["#mill", "#1"], "tags": ["O", "B"]},
        {"words": ["#river"], "tags": ["O"]},
    ]


@pytest.mark.parametrize(
    ("line", "words", "tags"),
    [
        ("New\xa0York B-LOC", ["New\xa0York"], ["B-LOC"]),
        ("\u3000 O", ["\u3000"], ["O"]),
        ("a\u2028b\tO", ["a\u2028b"], ["O"]),
        ("a\x85 O", ["a\x85"], ["O"]),
        ("a   NN    O  ", ["a"], ["O"]),
        ("a \t B-X \r", ["a"], ["B-X"]),
        ("  a O", ["a"], ["O"]),
        ("a b\t\tO", ["a b"], ["O"]),
    ],
)
def test_ascii_blanks_separate_columns_and_other_white_space_does_not(tmp_path, line, words, tags):
    assert read(tmp_path, line + "\n") == [{"words": words, "tags": tags}]


@pytest.mark.parametrize("blank", ["", " ", "\t", "\r", " \t\t "])
def test_blank_lines_end_sentences(tmp_path, blank):
    assert [row["words"] for row in read(tmp_path, f"a O\n{blank}\nb O\n")] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ana\tB-PER\nBrito\t\n\nx\tO\n", "line 2 of .*'Brito' has no tag beside it"),
        ("Ana\tB-PER\nBrito\tNNP\t \n", "line 2 of .*'Brito' has no tag beside it"),
        ("\u3000\n", "line 1 of .* has no tag beside it"),
        ("a\tO\n\tO\n", "line 2 of .*it has no word in its first column"),
    ],
)
def test_a_line_without_a_word_or_a_tag_is_named(tmp_path, text, reason):
    with pytest.raises(ValueError, match=rf"^{reason}\); correct or delete it$"):
        read(tmp_path, text)


def test_numbered_words_are_refused_with_a_command_that_helps(tmp_path):
    text = "# sent_id = 1\n1\tThe\tDET\tO\n2\tfox\tNOUN\tB\n3\truns\tVERB\tO\n\n1\tIt\tPRON\tO\n"
    with pytest.raises(ValueError, match=r"a\.conll numbers the words in its first column") as caught:
        read(tmp_path, text)
    subprocess.run(str(caught.value).partition("with: ")[2], shell=True, check=True)
    rows = list(read_conll(tmp_path / "a.words.conll", "words", "tags"))
    assert [row.values["words"] for row in rows] == [["The", "fox", "runs"], ["It"]]
    assert read(tmp_path, "1 CD O\n2 CD O\n\n1 CD O\n2 CD O\n3 CD O\n")[1]["words"] == ["1", "2", "3"]

"""SQuAD's JSON is read as published, and any other form is named."""

import json

import pytest

from flaxmill.data.files.squad import read_squad


def write(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return path


def squad(**question):
    qa = {"id": "q1", "question": "Who?", "answers": [{"text": "fox", "answer_start": 4}]} | question
    return {"version": "1", "data": [{"title": "T", "paragraphs": [{"context": "The fox", "qas": [qa]}]}]}


def test_a_question_is_a_row(tmp_path):
    path = write(tmp_path, squad())
    (row,) = read_squad(path)
    assert row.values == {
        "id": "q1",
        "title": "T",
        "question": "Who?",
        "context": "The fox",
        "answers": [{"text": "fox", "answer_start": 4}],
    }
    assert row.place == f"question 'q1' of {path}"


def test_the_second_version_says_what_is_impossible(tmp_path):
    (row,) = read_squad(write(tmp_path, squad(is_impossible=True, answers=[], plausible_answers=[])))
    assert row.values["is_impossible"] is True
    assert row.values["answers"] == []


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([], "the file has no 'data'"),
        ({"data": [{}]}, r"data\[0\] has no 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\].paragraphs\[0\] has no 'context'"),
        (squad(question=None), r"data\[0\].paragraphs\[0\].qas\[0\] has no 'question'"),
    ],
)
def test_what_is_missing_is_named_with_its_place(tmp_path, content, where):
    with pytest.raises(ValueError, match=rf"a.json is not in SQuAD's format: {where} of the right type"):
        list(read_squad(write(tmp_path, content)))


def test_a_file_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"data": [')
    with pytest.raises(
        ValueError, match=r"a.json cannot be read as SQuAD's JSON \(Expecting value.*\); correct it$"
    ):
        list(read_squad(path))

"""A row that cannot be learned from is refused in one line that names file, row, rule and fix."""

import math
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.example import Answer, make_examples
from flaxmill.data.files.rows import Row


def read(objective: str, *rows: dict[str, Any], file: str = "a.csv", **fields: Any):
    stream = (Row(values, f"row {number}", file) for number, values in enumerate(rows, start=1))
    return list(make_examples(stream, DataConfig(**fields), objective))


def question(**changes: Any) -> dict[str, Any]:
    row = {"question": " Who?", "context": "The fox.", "answers": [{"text": "fox", "answer_start": 4}]}
    return row | changes


def test_an_example_keeps_its_row_and_where_that_is():
    row = {"input": "a", "other": "b", "label": " x ", "id": 7}
    (example,) = read("classification", row, text_column="input", pair_column="other")
    assert (example.texts, example.wanted) == (("a", "b"), "x")
    assert (example.columns, example.place) == (row, "row 1 of a.csv")


def test_labels_of_any_type_become_strings_or_numbers():
    rows = [{"text": "a", "label": label} for label in ("x", 1, "2.5", 3)]
    assert [example.wanted for example in read("classification", *rows)] == ["x", "1", "2.5", "3"]
    numbers = read("classification", *rows[1:], label_type="number")
    assert [example.wanted for example in numbers] == [1.0, 2.5, 3.0]


def test_without_a_label_column_nothing_is_wanted():
    assert read("classification", {"text": "a"}, label_column=None)[0].wanted is None
    assert read("token_classification", {"text": ["a"]}, label_column=None)[0].wanted is None
    assert read("seq2seq", {"text": "a"}, target_column=None)[0].wanted is None


def test_words_and_tags_are_lists():
    (example,) = read("token_classification", {"text": ["The", "fox"], "label": ["O", 1]})
    assert (example.texts, example.wanted) == (("The", "fox"), ["O", "1"])


def test_answers_are_read_as_squad_and_as_tables_have_them():
    answers = [Answer("fox", 4), Answer("The fox", 0)]
    listed = [{"text": "fox", "answer_start": 4}, {"text": "The fox", "answer_start": 0}]
    columns = {"text": ["fox", "The fox"], "answer_start": [4, 0]}
    for found in (listed, columns):
        (example,) = read("question_answering", question(answers=found))
        assert example.texts == ("Who?", "The fox.")
        assert example.wanted == answers
    assert read("question_answering", question(answers=[]))[0].wanted == []
    assert read("question_answering", question(is_impossible=True))[0].wanted == []


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        (" Ana Brito", 2, Answer("Ana Brito", 3)),
        ("Ana Brito ", 3, Answer("Ana Brito", 3)),
        ("\u00a0Ana\n", 2, Answer("Ana", 3)),
    ],
)
def test_an_answer_has_no_blanks_around_it(text, start, found):
    row = question(context="is Ana Brito here", answers=[{"text": text, "answer_start": start}])
    assert read("question_answering", row)[0].wanted == [found]


@pytest.mark.parametrize("answers", [None, [], {}, "", float("nan"), {"text": [], "answer_start": []}])
def test_no_answers_are_no_answers(answers):
    assert read("question_answering", question(answers=answers))[0].wanted == []
    assert read("question_answering", question(is_impossible=float("nan")))[0].wanted != []


@pytest.mark.parametrize("value", [None, math.nan, "", " ", "\u3000"])
def test_a_missing_value_is_missing_whatever_it_is_spelled(value):
    for objective, row, message in [
        ("classification", {"label": value}, "has no label in the column 'label'"),
        ("classification", {"text": value}, "the text in 'text' is empty"),
        ("seq2seq", {"target": value}, "the text in 'target' is empty"),
        (
            "token_classification",
            {"text": ["a"], "label": [value]},
            "beside it|holds (None|nan) among its tags",
        ),
    ]:
        with pytest.raises(ValueError, match=rf"^row 1 of a\.csv.*({message})"):
            read(objective, {"text": "a", "label": "x", "target": "y"} | row)
    with pytest.raises(ValueError, match="has no label"):
        read("classification", {"text": "a", "label": value}, label_type="number")


@pytest.mark.parametrize("label", ["nan", "NA", "null", "None"])
def test_words_for_nothing_are_labels(label):
    assert read("classification", {"text": label, "label": label})[0].wanted == label


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (["b", "a"], ["a", "b"]),
        ([], []),
        (["a", " a "], ["a"]),
        ([1, "x"], ["1", "x"]),
        ("b|a", ["a", "b"]),
        (" a, b | c ", ["a, b", "c"]),
        ("", []),
        (" ", []),
        ("a", ["a"]),
    ],
)
def test_many_labels_are_a_list_or_a_string_with_separators(value, labels):
    assert read("classification", {"text": "t", "label": value}, label_type="multi_label")[0].wanted == labels


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r" has no labels in the column 'label'; give \[\] where none applies$"),
        (math.nan, r" has no labels in the column 'label'"),
        (5, r"'label' holds 5, which is not a list of labels; give one, or a string with \| between two$"),
        ({"a": 1}, r"which is not a list of labels"),
        (["a", None], r"'label' has a label without a name; delete it from the list$"),
        ("a||b", r"'label' has a label without a name"),
        ([["a"]], r"'label' holds \['a'\], which is not a label; give a string$"),
        (["\ud83d"], r"'label' has half a character"),
    ],
)
def test_lists_of_labels_that_cannot_be_used_are_named(value, message):
    with pytest.raises(ValueError, match=rf"^row 1 of a\.csv.*{message}"):
        read("classification", {"text": "t", "label": value}, label_type="multi_label")


def test_words_of_white_space_that_separates_nothing_are_words():
    row = {"text": ["\u3000", "\xa0"], "label": ["O", "O"]}
    assert read("token_classification", row)[0].texts == ("\u3000", "\xa0")


@pytest.mark.parametrize(
    ("objective", "fields", "message"),
    [
        (
            "classification",
            {},
            r"data.text_column='text' is not a column of a.csv; it has texts, label; did you mean",
        ),
        (
            "classification",
            {"text_column": "words"},
            r"data.text_column='words' is not a column of a.csv; it has tex",
        ),
        (
            "classification",
            {"text_column": "texts", "pair_column": "b"},
            r"data.pair_column='b' is not a column",
        ),
        ("classification", {"text_column": "texts", "label_column": "lable"}, r"; did you mean label\?$"),
        (
            "seq2seq",
            {"text_column": "texts"},
            r"data.target_column='target' is not a column of a.csv; it has texts",
        ),
        (
            "question_answering",
            {},
            r"objective=question_answering reads the column 'question', which is not a column",
        ),
    ],
)
def test_a_missing_column_is_named_beside_those_there_are(objective, fields, message):
    with pytest.raises(ValueError, match=message):
        read(objective, {"texts": "a", "label": "b"}, **fields)


def test_every_file_must_have_the_columns():
    rows = [
        Row({"text": "a", "label": "x"}, "row 1", "a.csv"),
        Row({"test": "a", "label": "x"}, "row 1", "b.csv"),
    ]
    with pytest.raises(
        ValueError, match=r"^data.text_column='text' is not a column of b.csv; it has test, label"
    ):
        list(make_examples(iter(rows), DataConfig(), "classification"))


@pytest.mark.parametrize(
    ("objective", "row", "fields", "message"),
    [
        ("classification", {"text": " "}, {}, r"the text in 'text' is empty; fill it, or delete the row$"),
        ("classification", {"text": None}, {}, r"the text in 'text' is empty; fill it"),
        ("classification", {"text": 5}, {}, r"'text' holds 5, which is not text; give a string$"),
        ("classification", {"text": "\ud83d"}, {}, r"'text' has half a character at place 0\); correct"),
        (
            "classification",
            {"label": ""},
            {},
            r" has no label in the column 'label'; give it one, or delete the row$",
        ),
        ("classification", {"label": None}, {}, r" has no label in the column 'label'"),
        (
            "classification",
            {"label": math.inf},
            {},
            r"'label' holds inf, which is not a label; give a string$",
        ),
        ("classification", {"label": "x\ud83d"}, {}, r"'label' has half a character at place 1\); correct"),
        (
            "classification",
            {"label": 1e39},
            {"label_type": "number"},
            r"1e\+39 in 'label' is beyond float32; scale",
        ),
        ("classification", {"label": 10**400}, {"label_type": "number"}, r"in 'label' is not a number"),
        ("classification", {"label": math.inf}, {"label_type": "number"}, r"'inf' in 'label'|inf in 'label'"),
        (
            "classification",
            {"label": ["x"]},
            {},
            r"'label' holds \['x'\], which is not a label; give a string$",
        ),
        (
            "classification",
            {"label": "good"},
            {"label_type": "number"},
            r"the label 'good' in 'label' is not a number",
        ),
        (
            "classification",
            {"label": "nan"},
            {"label_type": "number"},
            r"the label 'nan' in 'label' is not a number",
        ),
        (
            "token_classification",
            {"text": "a b"},
            {},
            r"'text' holds 'a b', which is not a list of words; give a .jsonl with",
        ),
        ("token_classification", {"text": []}, {}, r"'text' holds no words; fill it, or delete the row$"),
        (
            "token_classification",
            {"text": ["a", " "]},
            {},
            r"word 2 in 'text' is empty; delete it and its tag$",
        ),
        (
            "token_classification",
            {"text": ["a", None]},
            {},
            r"'text' holds None among its words; give strings$",
        ),
        (
            "token_classification",
            {"text": ["a", "b"]},
            {},
            r" has 2 words and 1 tags; give each word one tag$",
        ),
        ("seq2seq", {"target": ""}, {}, r"the text in 'target' is empty; fill it, or delete the row$"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(objective, row, fields, message):
    good: dict[str, Any] = {"text": "a", "label": "1", "target": "b"}
    if objective == "token_classification":
        good |= {"text": ["a"], "label": ["O"]}
    with pytest.raises(ValueError, match=rf"^row 3 of a.csv.*{message}") as caught:
        read(objective, good, good, good | row, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, r"the text in 'question' is empty"),
        ({"context": ""}, r"the text in 'context' is empty"),
        (
            {"answers": [{"text": "fox", "answer_start": 3}]},
            r"is not at character 3 of its context; it is at",
        ),
        (
            {"answers": [{"text": "cat", "answer_start": 4}]},
            r"the answer 'cat' is not at character 4 of its",
        ),
        (
            {"answers": [{"text": "", "answer_start": 4}]},
            r"the answer '' is not at character 4 .*correct or",
        ),
        (
            {"answers": [{"text": ".", "answer_start": -1}]},
            r"is not at character -1 .*it is at 7: corr",
        ),
        ({"answers": [{"text": "fox"}]}, r"cannot be read \(answers .* have no text and answer_start\)"),
        (
            {"answers": [{"text": "fox", "answer_start": math.inf}]},
            r"cannot be read \(answers .* have no text",
        ),
        (
            {"answers": [{"text": "fox", "answer_start": 10**30}]},
            r"is not at character 1000.*it is at 4",
        ),
        (
            {"answers": [{"text": " fox", "answer_start": 4}]},
            r"is not at character 4 .*it is at 3: c",
        ),
        ({"is_impossible": "false"}, r"is_impossible='false' is neither true nor false; give one of them$"),
        ({"answers": "fox"}, r"cannot be read \(answers 'fox' have no text and answer_start\)"),
    ],
)
def test_a_question_that_cannot_be_used_is_named(changes, message):
    with pytest.raises(ValueError, match=rf"^row 2 of a.csv.*{message}") as caught:
        read("question_answering", question(), question(**changes))
    assert "\n" not in str(caught.value)

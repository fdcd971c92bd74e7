"""JSON is read as one object per line or as an array; a row with no meaning, or with two, is named."""

import json

import pytest

from flaxmill.data.files.json_rows import read_json, read_jsonl


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def test_json_lines_are_objects(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "é", "n": 1}\n\n{"words": ["a", "b"]}\n')
    rows = list(read_jsonl(path))
    assert [row.values for row in rows] == [{"text": "é", "n": 1}, {"words": ["a", "b"]}]
    assert rows[1].place == f"row 2 of {path}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"^row 2 of .*a.jsonl cannot be read \(Expecting ',' delimiter at character \d+\)"),
        ('["text"]', r"^row 2 of .*it is not an object, but '\[\"text\"\]'\); correct or delete it$"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(write(tmp_path, "a.jsonl", json.dumps({"text": "a"}) + f"\n{line}\n")))


@pytest.mark.parametrize(
    "content", ['[{"text": "a"}, {"text": "b"}]', '\n[\n {\n "text": "a"},\n{"text": "b"}]\n']
)
def test_an_array_is_read_under_the_suffix_json_and_named_under_jsonl(tmp_path, content):
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(
        ValueError, match=r"a\.jsonl is a JSON array, not one object per line; give it the suffix \.json to"
    ):
        list(read_jsonl(path))
    rows = list(read_json(path.rename(tmp_path / "a.json")))
    assert [row.values for row in rows] == [{"text": "a"}, {"text": "b"}]
    assert rows[1].place == f"row 2 of {tmp_path / 'a.json'}"


def test_objects_a_line_are_read_under_the_suffix_json(tmp_path):
    path = write(tmp_path, "a.json", '{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.values for row in read_json(path)] == [{"text": "a"}, {"text": "b"}]
    assert list(read_json(write(tmp_path, "b.json", "\n"))) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{\n"text": "a"\n}',
            r"a\.json is one JSON value; write it as an array of objects, or as one object per line$",
        ),
        ('"text"', r"a\.json is one JSON value; write it"),
        ('[{"text": "a"}, 5]', r"^row 2 of .*a\.json cannot be read \(it is not an object, but '5'\)"),
        (
            '[{"text": "a"},\n{"text" "b"}]',
            r"a\.json cannot be read \(Expecting ':' delimiter at .* line 2\)",
        ),
        ('{"text": "a"\n{"text": "b"}', r"^row 1 of .*a\.json cannot be read \(Expecting ',' delimiter"),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        list(read_json(write(tmp_path, "a.json", content)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": ' + "9" * 5000 + "}", r"Exceeds the limit \(4300 digits\)"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "it nests more than 200 levels"),
        ('{"text": ' + "[" * 300 + "]" * 300 + "}", "it nests more than 200 levels"),
        ('{"text": "a", "label": 1, "text": "b"}', "it names the key 'text' twice"),
        ('{"text": "a", "meta": {"x": 1, "x": 1}}', "it names the key 'x' twice"),
        ('{"text": "a\u3000}', "Unterminated string"),
        ("\u3000", "Expecting value"),
    ],
)
def test_a_row_that_json_allows_or_python_cannot_read_is_named(tmp_path, line, reason):
    path = write(tmp_path, "a.jsonl", '{"text": "a"}\n' + line + "\n")
    with pytest.raises(
        ValueError, match=rf"^row 2 of .*a\.jsonl cannot be read \({reason}.*\); correct or"
    ) as caught:
        list(read_jsonl(path))
    assert "\n" not in str(caught.value)
    assert type(caught.value) is ValueError


def test_many_brackets_are_not_deep(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "[{" * 500, "lists": [[]] * 500}))
    assert [len(row.values["lists"]) for row in read_jsonl(path)] == [500]


def test_odd_line_separators_stay_in_their_string(tmp_path):
    text = "one\u2028two\u0085three\x0bfour"
    path = write(tmp_path, "a.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n")
    assert [row.values for row in read_jsonl(path)] == [{"text": text}]

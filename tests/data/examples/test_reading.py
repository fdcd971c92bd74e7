"""InputSources of examples are found by pattern and suffix, and read one after another."""

import gzip
import json
from dataclasses import replace

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.reading import find_examples


@pytest.fixture
def files(tmp_path):
    (tmp_path / "b.csv").write_text("text\nb1\nb2\n")
    (tmp_path / "a.csv").write_text("text\na1\n")
    (tmp_path / "c.JSONL").write_text(json.dumps({"text": "c1"}) + "\n")
    return tmp_path


def find(*patterns, objective="classification", log=lambda line: None):
    return find_examples(DataConfig(files=tuple(map(str, patterns))), "files", objective, log)


def test_files_are_read_in_order_and_each_once(files):
    found = find(files / "b.csv", files / "*.csv", files / "c.JSONL")
    assert [row.values["text"] for row in found.read()] == ["b1", "b2", "a1", "c1"]
    assert [entry[0] for entry in found.inventory] == [
        str(files / name) for name in ("b.csv", "a.csv", "c.JSONL")
    ]
    assert found.num_bytes == sum(path.stat().st_size for path in files.iterdir())


def test_nothing_is_read_before_the_rows_are(files):
    (files / "b.csv").write_bytes(b"\xff")
    assert find(files / "b.csv").inventory


@pytest.mark.parametrize(
    ("name", "objective", "known"),
    [
        ("a.conll", "classification", ".csv, .tsv, .jsonl, .json, .parquet"),
        ("a.txt.gz", "question_answering", ".csv, .tsv, .jsonl, .json, .parquet"),
        ("a.txt", "token_classification", ".csv, .tsv, .jsonl, .json, .parquet, .conll"),
    ],
)
def test_an_unknown_suffix_is_refused_with_those_known(tmp_path, name, objective, known):
    (tmp_path / name).write_text("text\n")
    with pytest.raises(
        ValueError, match=rf"{name}: suffix '.*' names no format that objective={objective} reads; use"
    ) as e:
        find(tmp_path / name, objective=objective)
    assert str(e.value).endswith(f"use {known}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"^data.files='.*none.csv' names no file; give an existing text file or"
    ):
        find(tmp_path / "none.csv")


def test_sentences_and_questions_have_formats_of_their_own(tmp_path):
    (tmp_path / "a.conll").write_text("a O\nb B\n")
    (tmp_path / "a.json").write_text('{"data": []}')
    (row,) = find(tmp_path / "a.conll", objective="token_classification").read()
    assert row.values == {"text": ["a", "b"], "label": ["O", "B"]}
    assert list(find(tmp_path / "a.json", objective="question_answering").read()) == []


def test_archives_are_read_by_the_suffix_inside(tmp_path):
    (tmp_path / "a.conll.gz").write_bytes(gzip.compress(b"a O\nb B\n"))
    (row,) = find(tmp_path / "a.conll.gz", objective="token_classification").read()
    assert row.values == {"text": ["a", "b"], "label": ["O", "B"]}
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"data": []}'))
    assert list(find(tmp_path / "b.json.gz", objective="question_answering").read()) == []
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\n"))
    (row,) = find(tmp_path / "c.csv.gz").read()
    assert row.values == {"text": "a", "label": "x"}


QUESTION = {"question": "Who?", "context": "The fox.", "answers": []}


@pytest.mark.parametrize("content", [json.dumps([QUESTION]), json.dumps(QUESTION) + "\n"])
def test_questions_need_not_be_in_squad_s_form(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    (row,) = find(tmp_path / "a.json", objective="question_answering").read()
    assert row.values == QUESTION


def test_other_quotes_read_a_table_anew(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"a",x\n')
    config = DataConfig(files=(str(tmp_path / "a.csv"),))
    entries = []
    for quotes in ("double", "none"):
        sources = find_examples(replace(config, quotes=quotes), "files", "classification", lambda line: None)
        entries.append(sources.inventory)
    assert entries[0] != entries[1]

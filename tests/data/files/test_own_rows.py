"""Text from Python becomes a prepared dataset like any other."""

import re
import runpy
from pathlib import Path

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.files import own_rows
from flaxmill.data.files.own_rows import define_text
from flaxmill.data.preparation.cache import prepare

PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"
TEXTS = [f"The square of {n} is {n * n}." for n in range(300)]


class GrainLike:
    """A source with a length and random access, as Grain's and Hugging Face's are."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, number):
        return {"text": TEXTS[number], "label": number}


def prepared(tmp_path, spec, **fields):
    config = DataConfig(files=(spec,), tokenizer="bytes", sequence_length=32, **fields)
    return prepare(config, "causal", cache=tmp_path, log=lambda line: None)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(own_rows, "_DEFINED", {})


def test_every_kind_of_items_gives_the_rows_of_the_same_file(tmp_path):
    """A JSONL file of the same texts, which the fingerprint does not name."""
    import json

    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    wanted = prepared(tmp_path / "cache", str(tmp_path / "a.jsonl")).fingerprint
    kinds = {
        "list": TEXTS,
        "function": lambda: iter(TEXTS),
        "rows": lambda: ({"text": text} for text in TEXTS),
        "source": GrainLike(),
    }
    for name, items in kinds.items():
        spec = define_text(name, items, version="1")
        assert prepared(tmp_path / "cache", spec).fingerprint == wanted, name


def test_a_dataset_is_found_again_by_its_version_and_made_anew_for_another(tmp_path):
    reads = []

    def items():
        reads.append(1)
        return iter(TEXTS)

    first = prepared(tmp_path, define_text("a", items, version="1"))
    num_reads = len(reads)
    assert prepared(tmp_path, define_text("a", items, version="1")).directory == first.directory
    assert len(reads) == num_reads
    assert prepared(tmp_path, define_text("a", items, version="2")).directory != first.directory


def test_a_list_has_its_content_for_a_version(tmp_path):
    first = prepared(tmp_path, define_text("a", TEXTS))
    assert prepared(tmp_path, define_text("a", list(TEXTS))).directory == first.directory
    assert prepared(tmp_path, define_text("a", [*TEXTS, "More."])).directory != first.directory
    cut = define_text("a", [TEXTS[0][:5], TEXTS[0][5:], *TEXTS[1:]])
    assert prepared(tmp_path, cut).directory != first.directory


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            iter(TEXTS),
            "text 'a' is an iterator, which can be read only once; give the function",
        ),
        (lambda: iter(TEXTS), r"text 'a' has no version .*; give version=\.\.\. or file=__file__"),
    ],
)
def test_text_that_could_not_be_found_again_is_refused(items, message):
    with pytest.raises(ValueError, match=message):
        define_text("a", items)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "item 2 of python:a: 'text' holds 7, which is not text"),
        (
            {"txt": "x"},
            "'text' is not a column of item 2 of python:a; it has txt; did you mean",
        ),
        ("\ud800", "item 2 of python:a cannot be read"),
    ],
)
def test_a_bad_item_is_named_or_skipped(tmp_path, item, message):
    items = [*TEXTS[:2], item, *TEXTS[2:]]
    spec = define_text("a", lambda: iter(items), version="1")
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, spec)
    dataset = prepared(tmp_path, spec, bad_rows="skip")
    assert sum(split.get("num_bad_rows", 0) for split in dataset.statistics.values()) >= 1


def test_text_that_no_file_has_defined_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.files=python:a is text that a Python file defines"):
        prepared(tmp_path, "python:a")


def blocks():
    section = PAGE.read_text().split("### Text from Python")[1].split("### Remote stores")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.S)


@pytest.mark.slow
def test_the_worked_examples_run(tmp_path, monkeypatch, flaxmill, capsys):
    experiment, script, grain = blocks()
    monkeypatch.chdir(tmp_path)
    Path("counting.py").write_text(experiment)
    code, out, err = flaxmill("train", "counting.py", "--run-dir", "run")
    assert code == 0, err
    assert "saved in" in out
    code, out, err = flaxmill("train", "counting.py", "--run-dir", "run", "--steps", 25, "--extend")
    assert code == 0, err
    Path("script.py").write_text(script + grain)
    runpy.run_path("script.py")
    assert "The square of" in (out := capsys.readouterr().out)
    assert out.count("(8, 32)") == 3

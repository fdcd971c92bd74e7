"""Examples have splits that never change, labels that are found or given, and an order that is stored."""

import dataclasses
import json

import pytest
from task_files import LABELS, write_task

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import as_documents, find_labels, read_examples, split_examples


def write(tmp_path, name, labels):
    path = tmp_path / name
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": x}) + "\n" for n, x in enumerate(labels)))
    return str(path)


def labels_of(config):
    return find_labels(config, "classification", split_examples(config, "classification"))


def texts(config, split):
    return [example.texts[0] for example in read_examples(config, "classification", split)]


def test_a_share_is_held_out_and_never_none(tmp_path):
    for num in (2, 3, 5, 60):
        config = write_task(tmp_path, "classification", num=num, seed=num)
        train, valid = (list(read_examples(config, "classification", s)) for s in ("train", "valid"))
        assert len(train) + len(valid) == num
        assert train
        assert valid
    assert 4 <= len(valid) <= 20  # a fifth of 60 is drawn
    assert [example.place for example in valid] == [
        example.place for example in read_examples(config, "classification", "valid")
    ]


def test_another_seed_holds_out_others(tmp_path):
    config = write_task(tmp_path, "classification")
    assert texts(config, "valid") != texts(dataclasses.replace(config, seed=1), "valid")


def test_valid_files_are_held_out_whole_and_in_order(tmp_path):
    config = DataConfig(
        files=(write(tmp_path, "a.jsonl", "xy"),), valid_files=(write(tmp_path, "b.jsonl", "yxy"),)
    )
    assert texts(config, "train") == ["t0", "t1"]
    assert texts(config, "valid") == ["t0", "t1", "t2"]


def test_one_example_needs_held_out_ones_beside_it(tmp_path):
    config = DataConfig(files=(write(tmp_path, "a.jsonl", "x"),))
    with pytest.raises(
        ValueError, match=r"a.jsonl has 1 example, none to hold out; give more, or data.valid_files$"
    ):
        texts(config, "train")


def test_no_examples_are_refused(tmp_path):
    config = DataConfig(files=(write(tmp_path, "a.jsonl", ""),))
    with pytest.raises(
        ValueError, match=r"^data.files=.*a.jsonl holds no examples; give files with at least one row$"
    ):
        texts(config, "train")
    config = DataConfig(files=(write(tmp_path, "b.jsonl", "xy"),), valid_files=config.files)
    with pytest.raises(ValueError, match=r"^data.valid_files=.*a.jsonl holds no examples"):
        texts(config, "valid")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "holds no examples"),
        (["x", "y", None], r"row 3 of .*rows.jsonl has no label"),
        (["x"], "has 1 example, none to hold out"),
    ],
)
def test_a_check_finds_what_the_first_rows_lack(tmp_path, labels, message):
    config = DataConfig(files=(write(tmp_path, "rows.jsonl", labels),), label_type="category")
    with pytest.raises(ValueError, match=message):
        split_examples(config, "classification").check()


def test_labels_are_sorted_as_numbers_where_all_are_whole(tmp_path):
    assert labels_of(DataConfig(files=(write(tmp_path, "a.jsonl", "bca"),))) == ("a", "b", "c")
    assert labels_of(DataConfig(files=(write(tmp_path, "b.jsonl", [10, 2, -1, "3"]),))) == (
        "-1",
        "2",
        "3",
        "10",
    )
    assert labels_of(DataConfig(files=(write(tmp_path, "c.jsonl", [10, 2, "x"]),))) == ("10", "2", "x")


def test_labels_come_from_training_files_drawn_or_not(tmp_path):
    drawn = write_task(tmp_path, "classification", num=3)  # one label a row, and one row held out
    assert labels_of(drawn) == LABELS
    files = (write(tmp_path, "a.jsonl", "xy"),)
    assert labels_of(DataConfig(files=files, valid_files=(write(tmp_path, "b.jsonl", "xz"),))) == ("x", "y")


def test_given_labels_keep_their_order(tmp_path):
    assert labels_of(DataConfig(files=(write(tmp_path, "a.jsonl", "xy"),), labels=("y", "x"))) == ("y", "x")


def test_one_label_or_none_is_refused(tmp_path):
    files = (write(tmp_path, "a.jsonl", "xxx"),)
    with pytest.raises(
        ValueError, match=r"^data.label_column='label' of .* holds one label, 'x'; a classifier needs"
    ):
        labels_of(DataConfig(files=files))
    with pytest.raises(
        ValueError, match=r"^data.label_column=None leaves the labels unknown; name the column, or"
    ):
        labels_of(DataConfig(files=files, label_column=None))


def test_tags_are_labels_and_numbers_are_not(tmp_path):
    tagging, regression = write_task(tmp_path, "tagging"), write_task(tmp_path, "regression")
    corpus = split_examples(tagging, "token_classification")
    assert find_labels(tagging, "token_classification", corpus) == ("animal", "other")
    assert labels_of(regression) == ()


def test_a_tokenizer_learns_from_texts_and_targets_but_not_from_labels(tmp_path):
    config = write_task(tmp_path, "classification", num=4)
    documents = [
        document.text
        for _, document in as_documents(
            split_examples(config, "classification"), "classification"
        ).documents()
    ]
    assert not any(label in text for text in documents for label in LABELS)
    config = write_task(tmp_path, "translation", num=4)
    corpus = split_examples(config, "seq2seq")
    for (_, document), (_, example) in zip(
        as_documents(corpus, "seq2seq").documents(), corpus.examples(), strict=True
    ):
        assert document.text == f"{example.texts[0]}\n{example.wanted}"

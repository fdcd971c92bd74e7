"""The number, names and problem type of classes in config.json are read as transformers reads them."""

import json
from typing import Any

import pytest

from flaxmill.model.config_json.labels import label_names
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.directory import (
    load_huggingface,
    read_huggingface_config,
    read_labels,
)
from flaxmill.train.run.exporting import export_run
from flaxmill.train.run.importing import import_run

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


def read(head: Any = "classification", **settings):
    return FAMILIES["bert"].read_config(SIZES | settings, head, frozenset())


@pytest.mark.parametrize(
    ("settings", "num_labels", "problem"),
    [
        ({}, 2, "single_label_classification"),
        ({"problem_type": None}, 2, "single_label_classification"),
        ({"num_labels": 1}, 1, "regression"),
        ({"num_labels": 5}, 5, "single_label_classification"),
        ({"id2label": {"0": "only"}}, 1, "regression"),
        ({"id2label": None, "label2id": None}, 2, "single_label_classification"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, 3, "multi_label_classification"),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, 1, "multi_label_classification"),
        ({"num_labels": 3, "problem_type": "regression"}, 3, "regression"),
    ],
)
def test_the_problem_is_that_of_transformers_rule(settings, num_labels, problem):
    config = read(**settings)
    assert (config.num_classes, config.problem) == (num_labels, problem)
    assert config.problem_type == settings.get("problem_type")


@pytest.mark.parametrize("head", ["none", "mlm", "token_classification", "qa"])
def test_other_heads_solve_no_problem_of_rows(head):
    config = read(head, problem_type="multi_label_classification")
    assert (config.problem_type, config.problem) == (None, None)


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if "classification" in FAMILIES[name].architectures]
)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_export_names_the_problem_that_was_read(family, problem):
    description = FAMILIES[family]
    config = description.read_config({"problem_type": problem}, "classification", frozenset())
    assert description.write_config(config)["problem_type"] == problem
    unsaid = description.read_config({}, "classification", frozenset())
    assert "problem_type" not in description.write_config(unsaid)


def test_names_come_in_the_order_of_their_numbers():
    names = {"10": "k", "2": "c", "0": "a", "1": "b", **{str(n): f"n{n}" for n in range(3, 10)}}
    assert label_names({"id2label": names}) == ("a", "b", "c", *(f"n{n}" for n in range(3, 10)), "k")
    assert label_names({"num_labels": 3}) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert label_names({"id2label": {"0": 1, "1": 2.5}}) == ("1", "2.5")
    left_over = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert label_names(left_over) == ("no", "yes")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"problem_type": "multilabel"}, "problem_type='multilabel' is unknown; use one of single_label"),
        ({"problem_type": 3}, "problem_type=3 must be a word"),
        (
            {"problem_type": "single_label_classification", "num_labels": 1},
            "model.num_labels=1; use regression",
        ),
        (
            {"id2label": {"0": "a", "2": "b"}},
            "id2label has the numbers ['0', '2']; it must have each of 0 to 1",
        ),
        ({"id2label": {"1": "a", "2": "b"}}, "it must have each of 0 to 1"),
        ({"id2label": {"a": 0, "b": 1}}, "id2label has the numbers ['a', 'b']"),
        ({"id2label": ["a", "b"]}, "id2label=['a', 'b'] must be an object"),
        ({"id2label": {"0": None, "1": "b"}}, "id2label has no name for class 0"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels=3 but id2label names 2 classes"),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}},
            "calls class 0 'a', which label2id",
        ),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": ["a"]}, "label2id=['a'] must be an object"),
        ({"num_labels": 0}, "num_labels=0 must lie between 1"),
        ({"num_labels": 10**9}, "num_labels=1000000000 must lie between 1"),
        ({"num_labels": "three"}, "num_labels='three' must be a whole number"),
    ],
)
def test_classes_that_contradict_each_other_are_refused_in_one_line(settings, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole message is looked at
        read(**settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_body_may_be_read_whatever_its_file_says_of_classes():
    assert read("none", id2label={"0": "a", "2": "b"}).head == "none"


@pytest.mark.slow
def test_an_exported_import_of_a_multi_label_model_keeps_its_problem_and_names(torch_reference, tmp_path):
    names = {"id2label": {0: "rude", 1: "spam", 2: "toxic"}, "label2id": {"rude": 0, "spam": 1, "toxic": 2}}
    directory, _ = torch_reference("bert_classification", problem_type="multi_label_classification", **names)
    experiment = import_run(directory, tmp_path / "run")
    assert experiment.model.problem_type == "multi_label_classification"
    export_run(tmp_path / "run", tmp_path / "again")
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (directory, tmp_path / "again")
    )
    for key in ("problem_type", "id2label", "label2id"):
        assert after[key] == before[key]
    assert read_labels(tmp_path / "again") == ("rude", "spam", "toxic")
    assert read_huggingface_config(tmp_path / "again") == read_huggingface_config(directory)


def test_a_head_of_other_classes_forgets_the_problem_of_the_old_one(torch_reference):
    directory, _ = torch_reference("bert", problem_type="single_label_classification")
    config, _ = load_huggingface(directory, head="classification")
    assert config.problem_type == "single_label_classification"
    config, _ = load_huggingface(directory, head="classification", num_labels=2)
    assert config.problem_type == "single_label_classification"
    config, _ = load_huggingface(directory, head="classification", num_labels=1)
    assert (config.problem_type, config.problem) == (None, "regression")

"""Each objective has a row in both tables, and the functions that the rows name exist."""

import pytest

from flaxmill.data.config import Layout
from flaxmill.data.objectives import (
    OBJECTIVE_DATA,
    data_of,
    examples_of,
    find_function,
    has_labels,
    layout_of,
)
from flaxmill.data.prepared.layouts import record_format
from flaxmill.train import DataConfig
from flaxmill.train.objectives.table import OBJECTIVES as TRAINED
from flaxmill.train.objectives.table import objective_for, objective_of


def references(row):
    """The functions that a row of either table refers to."""
    for value in row:
        if isinstance(value, str) and ":" in value:
            yield value


def test_both_tables_have_the_same_objectives():
    assert list(OBJECTIVE_DATA) == list(TRAINED)
    assert all(TRAINED[name].data is data for name, data in OBJECTIVE_DATA.items())


@pytest.mark.parametrize("name", OBJECTIVE_DATA)
def test_the_functions_of_a_row_exist(name):
    found = [*references(OBJECTIVE_DATA[name]), *references(TRAINED[name])]
    assert found
    if examples := OBJECTIVE_DATA[name].examples:
        found += [examples.read, *examples.formats.values()]
    assert all(callable(find_function(reference)) for reference in found)


@pytest.mark.parametrize("name", OBJECTIVE_DATA)
def test_the_rows_of_an_objective_have_a_format(name):
    for layout in OBJECTIVE_DATA[name].layouts:
        settings = {"layout": layout, "sequence_length": 8, "target_length": 4, "label_type": "category"}
        assert record_format(settings, 100, num_labels=2).num_bytes > 0


def test_a_function_may_stand_for_its_place():
    assert find_function(len) is len
    assert find_function("flaxmill.data.objectives:data_of") is data_of


def test_an_unknown_objective_is_refused_with_those_there_are():
    for find in (data_of, objective_of):
        with pytest.raises(
            ValueError, match=rf"^objective='x' is unknown; use one of {', '.join(OBJECTIVE_DATA)}$"
        ):
            find("x")


def test_an_encoder_decoder_reads_the_first_layout():
    found: list[Layout] = [layout_of("seq2seq", has_encoder) for has_encoder in (True, False)]
    assert found == ["sources", "prompts"]


@pytest.mark.parametrize(
    ("head", "has_encoder", "objective"),
    [
        ("lm", False, "causal"),
        ("lm", True, "seq2seq"),
        ("mlm", False, "mlm"),
        ("mlm_nsp", False, "mlm_nsp"),
        ("classification", False, "classification"),
        ("token_classification", False, "token_classification"),
        ("qa", False, "question_answering"),
        ("none", False, None),
        (None, False, None),
    ],
)
def test_a_head_is_trained_by_the_first_objective_that_has_it(head, has_encoder, objective):
    assert objective_for(head, has_encoder) == objective


def test_classes_are_told_from_numbers_and_texts():
    with_labels = [name for name in OBJECTIVE_DATA if has_labels(DataConfig(), name)]
    assert with_labels == ["classification", "token_classification"]
    assert not has_labels(DataConfig(label_type="number"), "classification")
    assert examples_of("seq2seq").answer_column == "target_column"

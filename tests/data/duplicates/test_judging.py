"""What is dropped and counted is what data.duplicates says."""

import numpy as np
import pytest
from digested_documents import divide, part_of

from flaxmill.data.config import DataConfig
from flaxmill.data.duplicates.judging import check_duplicates, judge_duplicates
from flaxmill.data.duplicates.signatures import sign
from flaxmill.data.preparation.cache_places import stored_settings

LONG = " ".join(f"w{number}" for number in range(300))
TEXTS = [
    ("a text", False),
    ("a text", False),
    (LONG, False),
    (f"{LONG} and more", False),
    (f"{LONG} and more", True),
    ("another text", True),
    ("another text", True),
    ("", False),
]


@pytest.mark.parametrize(
    ("choice", "dropped", "train", "valid"),
    [
        ("keep", [], {"num_duplicates": 2}, {"num_duplicates": 1}),
        (
            "report",
            [],
            {"num_duplicates": 2, "num_near_duplicates": 1},
            {"num_duplicates": 1, "num_near_duplicates": 0},
        ),
        (
            "drop_exact",
            [1, 3, 6],
            {"num_duplicates": 2, "num_dropped": 2},
            {"num_duplicates": 1, "num_dropped": 1},
        ),
        (
            "drop_near",
            [1, 2, 3, 6],
            {"num_duplicates": 2, "num_near_duplicates": 1, "num_dropped": 3},
            {"num_duplicates": 1, "num_near_duplicates": 0, "num_dropped": 1},
        ),
    ],
)
@pytest.mark.parametrize("cuts", [[], [3], [1, 4, 4]])
def test_what_is_dropped_and_counted_is_what_was_asked_for(choice, dropped, train, valid, cuts):
    signatures = np.split(sign([text for text, _ in TEXTS]), cuts)
    judged = judge_duplicates(divide(TEXTS, cuts), None if choice == "keep" else signatures, choice)
    assert np.concatenate(judged.is_dropped).nonzero()[0].tolist() == dropped
    assert judged.statistics == {"train": train, "valid": valid}


def test_training_text_that_is_all_held_out_is_not_dropped_in_silence():
    documents = [("a", False), ("b", False), ("", False), ("b", True), ("a", True)]
    with pytest.raises(
        ValueError, match=r"^data\.duplicates=drop_exact drops every training .*\(2\)"
    ) as caught:
        judge_duplicates([part_of(documents)], None, "drop_exact")
    assert "\n" not in str(caught.value)
    assert not judge_duplicates([part_of(documents)], None, "keep").is_dropped[0].any()


def test_only_text_is_searched_for_duplicates():
    config = DataConfig(duplicates="drop_exact")
    check_duplicates(config, "causal")
    check_duplicates(DataConfig(), "classification")
    with pytest.raises(
        ValueError, match=r"^data\.duplicates=drop_exact .*objective=classification"
    ) as caught:
        check_duplicates(config, "classification")
    assert "\n" not in str(caught.value)


def test_a_dataset_is_another_one_only_where_duplicates_are_not_kept():
    assert "duplicates" not in stored_settings(DataConfig(), "packed")
    for layout in ("packed", "pairs"):
        assert stored_settings(DataConfig(duplicates="report"), layout)["duplicates"] == "report"
    assert "duplicates" not in stored_settings(DataConfig(duplicates="report"), "labelled")


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"^data\.duplicates='drop' is not one of keep, report, drop_exact"):
        DataConfig(duplicates="drop")  # type: ignore[arg-type]

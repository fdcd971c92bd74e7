"""Metrics as columns: later rows count, gaps stay, events are found, and damaged lines are told."""

import json
import math

import numpy as np
import pytest
from reported_runs import rows_of

from flaxmill.train.report.metric_columns import MAX_EVENTS, read_columns


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write


def test_each_number_is_a_column_over_its_own_steps(write):
    metrics = read_columns(
        write(
            {"step": 0, "loss": 5, "key": [1, 2]},
            {"step": 10, "loss": 4.5, "name": "x"},
            {"step": 10, "eval_loss": 4.0},
        )
    )
    assert set(metrics.columns) == {"loss", "eval_loss"}
    assert metrics.columns["loss"].steps.tolist() == [0, 10]
    assert metrics.columns["loss"].values.tolist() == [5.0, 4.5]
    assert metrics.columns["eval_loss"].steps.tolist() == [10]
    assert (metrics.num_rows, metrics.num_unread, metrics.events) == (3, 0, [])


def test_of_a_step_that_was_written_again_the_later_row_counts(write):
    rows = [
        {"step": step, "loss": loss}
        for step, loss in ((0, 9.0), (1, 8.0), (2, 7.0), (1, 1.5), (2, 1.25), (3, 1.0))
    ]
    column = read_columns(write(*rows)).columns["loss"]
    assert column.steps.tolist() == [0, 1, 2, 3]
    assert column.values.tolist() == [9.0, 1.5, 1.25, 1.0]


def test_a_value_that_is_not_finite_is_a_gap(write):
    metrics = read_columns(
        write(
            *(
                f'{{"step": {step}, "loss": {value}}}'
                for step, value in enumerate(("null", "NaN", "1e999", "1" + "0" * 400, "-1e39", "2.5"))
            )
        )
    )
    values = metrics.columns["loss"].values
    assert np.isnan(values).tolist() == [True] * 5 + [False]


def test_skipped_steps_are_found_by_their_count_even_between_rows(write):
    rows = [{"step": 10 * n, "loss": 1.0, "skipped_steps": count} for n, count in enumerate((0, 0, 2, 2, 3))]
    events = read_columns(write(*rows)).events
    assert [(event.kind, event.step) for event in events] == [("skipped", 20), ("skipped", 40)]
    assert events[0].text == "steps 11 to 20: loss or gradient is not finite; 2 updates are left out"
    assert events[1].text == "steps 31 to 40: loss or gradient is not finite; the update is left out"


def test_a_skipped_first_step_is_found(write):
    (event,) = read_columns(
        write({"step": 0, "loss": None, "skipped_steps": 1}, {"step": 1, "loss": 2.0, "skipped_steps": 1})
    ).events
    assert event.text == "step 0: loss or gradient is not finite; the update is left out"


def test_many_skipped_steps_are_told_together(write):
    rows = [{"step": n, "loss": None, "skipped_steps": n + 1} for n in range(3 * MAX_EVENTS)]
    events = read_columns(write(*rows)).events
    assert len(events) == MAX_EVENTS
    assert events[-1].text.startswith(f"steps {3 * MAX_EVENTS - 3:,} to {3 * MAX_EVENTS - 1:,}: ")
    assert "3 updates are left out" in events[-1].text


def test_a_rollback_takes_back_what_came_after_it(write):
    before = [{"step": step, "loss": 3.0 - step / 100} for step in range(40)]
    rollback = {
        "step": 20,
        "rollback_from": 40,
        "spike_loss": 11.5,
        "skipped_batches": [20, 40],
        "batch_offset": 21,
    }
    after = [{"step": step, "loss": 1.0} for step in range(20, 25)]
    metrics = read_columns(write(*before, rollback, *after))
    column = metrics.columns["loss"]
    assert column.steps.tolist() == list(range(25))
    assert column.values[19:].tolist() == [2.81, 1.0, 1.0, 1.0, 1.0, 1.0]
    (event,) = metrics.events
    assert (event.kind, event.step) == ("rollback", 40)
    assert event.text == "the loss spiked to 11.5; back to step 20, skipping batches 20 to 40"


@pytest.mark.parametrize(
    "changed", [{"rollback_from": "x"}, {"spike_loss": []}, {"skipped_batches": [1]}, {"skipped_batches": 3}]
)
def test_a_rollback_that_was_changed_by_hand_is_still_one(changed, write):
    rollback = {"step": 20, "rollback_from": 40, "spike_loss": 11.5, "skipped_batches": [20, 40]} | changed
    (event,) = read_columns(write({"step": 0, "loss": 1.0}, rollback)).events
    assert "back to step 20" in event.text


def test_lines_that_are_no_rows_are_passed_over_and_counted(write):
    path = write(
        {"step": 0, "loss": 2.0},
        '{"step": 1, "lo',
        "[]",
        {"loss": 1.0},
        {"step": -3},
        {"step": 10**30},
        {"step": 2, "loss": 1.5},
    )
    metrics = read_columns(path)
    assert metrics.columns["loss"].steps.tolist() == [0, 2]
    assert (metrics.num_rows, metrics.num_unread, metrics.first_unread) == (2, 5, 2)


def test_a_file_without_any_row_is_damaged_unless_it_is_empty(write, tmp_path):
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl is damaged: line 1 is no JSON object with a step, .* restore it$"
    ):
        read_columns(write("nothing", "of use"))
    assert read_columns(write()).num_rows == 0
    with pytest.raises(ValueError, match="is not a file"):
        read_columns(tmp_path)


def test_the_rows_of_a_run_are_all_read(write):
    metrics = read_columns(write(*rows_of(100)))
    assert metrics.num_rows == 110
    assert len(metrics.columns["loss"].steps) == 100
    assert math.isnan(metrics.columns["loss"].values[75])
    assert "skipped_steps" not in metrics.columns
    assert [event.step for event in metrics.events] == [75, 76]

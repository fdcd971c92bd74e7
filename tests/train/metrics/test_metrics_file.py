"""metrics.jsonl is exact, append-only and readable after a crash."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flaxmill.train.metrics.metrics_file import MetricsWriter, read_metrics, read_newest_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_floats_come_back_bit_for_bit(path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, float(np.float32(0.1)), -0.0]
    with MetricsWriter(path) as writer:
        for value in values:
            writer.write({"loss": value})
    read = [row["loss"] for row in read_metrics(path)]
    assert np.array(read).tobytes() == np.array(values).tobytes()
    assert repr(values[1]) in path.read_text()


def test_non_finite_numbers_are_null_and_the_rest_of_the_row_stays(path):
    with MetricsWriter(path) as writer:
        writer.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "other": -float("inf")})
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "grad_norm": None, "other": None}


def test_a_row_is_in_the_file_as_soon_as_it_is_written(path):
    with MetricsWriter(path) as writer:
        writer.write({"step": 0})
        assert [row["step"] for row in read_metrics(path)] == [0]


def test_a_second_writer_appends(path):
    for step in range(3):
        with MetricsWriter(path) as writer:
            writer.write({"step": step})
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_torn_line_swallows_neither_the_next_row_nor_those_before(path):
    path.write_bytes(b'{"step": 0}\n{"step": 1, "lo')
    with MetricsWriter(path) as writer:
        writer.write({"step": 1})
    assert [row["step"] for row in read_metrics(path)] == [0, 1]


def test_readers_pass_over_what_is_no_row(path):
    path.write_bytes(b'{"step": 0}\n\xff\xfe{\n7\n\n{"step": 1}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [0, 1]


def test_synced_rows_are_handed_to_the_disk(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    with MetricsWriter(path) as writer:
        writer.write({"step": 0})
        writer.sync()
        assert len(synced) == 1


def test_a_full_disk_is_named_with_the_file_and_what_to_do():
    writer = MetricsWriter(Path("/dev/full"))
    with pytest.raises(OSError, match=r"/dev/full could not be written \(no space left on device\)"):
        writer.write({"step": 0})
    writer.__exit__()


def test_a_line_of_endless_brackets_is_passed_over(path):
    path.write_text("[" * 100_000 + '\n{"step": 1}\n')
    assert list(read_metrics(path)) == [{"step": 1}]


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkfifo, "is not a file"), (Path.mkdir, "is not a file"), (lambda path: None, "is missing")],
)
def test_what_is_no_file_is_refused_and_not_waited_for(make, what, path):
    make(path)
    with pytest.raises(ValueError, match=f"{what}; put it back"):
        list(read_metrics(path))


def test_lines_that_are_no_rows_are_passed_over(path):
    path.write_bytes(b'[]\n1\n"step"\n\xff\n' + b"[" * 200_000 + b'\n{"step": 1}\n{"step"')
    assert list(read_metrics(path)) == [{"step": 1}]


@pytest.mark.parametrize("lengths", [[], [10], [3, 70_000, 5], [65_535, 1], [65_536, 65_536], [1] * 500])
@pytest.mark.parametrize("ending", ["", "\n", '{"torn": 1', "\nno row\n[1]\n"])
def test_the_newest_rows_come_first_whatever_their_length(lengths, ending, path):
    path.write_text("\n".join(json.dumps({"step": i, "x": "y" * n}) for i, n in enumerate(lengths)) + ending)
    assert list(read_newest_metrics(path)) == list(reversed(list(read_metrics(path))))

"""Samples of a run: one for each end, read back whatever else the file holds."""

from flaxmill.train.run.samples import SAMPLES_FILE, read_samples, write_sample


def test_the_later_sample_of_a_step_counts(tmp_path):
    assert read_samples(tmp_path) == {}
    for step, text in ((8, "first"), (4, "earlier"), (8, "again\n</b>")):
        write_sample(tmp_path, step, text)
    assert list(read_samples(tmp_path).items()) == [(4, "earlier"), (8, "again\n</b>")]


def test_lines_that_are_no_samples_are_passed_over(tmp_path):
    (tmp_path / SAMPLES_FILE).write_text(
        'x\n{"step": 1}\n{"step": "1", "sample": "a"}\n{"step": 2, "sample": 3}\n{"st'
    )
    write_sample(tmp_path, 3, "whole")
    assert read_samples(tmp_path) == {3: "whole"}

"""A run reads with the tokenizer it kept when the file that it came from is gone."""

import dataclasses

import pytest
from small_tokenizers import directory_of
from task_files import write_task

from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import prepare_data


def test_a_tokenizer_whose_file_is_gone_is_the_run_s_own_copy(tmp_path):
    def prepare(run: str | None):
        experiment = Experiment(objective="classification", data=config, run_dir=run)
        return prepare_data(experiment, tmp_path / "cache", lambda line: None)

    source = tmp_path / "tokenizer.json"
    source.write_text((directory_of("bert") / "tokenizer.json").read_text())
    config = dataclasses.replace(write_task(tmp_path, "classification"), tokenizer=str(source))
    run = tmp_path / "run"
    run.mkdir()
    dataset = prepare(str(run))
    dataset.tokenizer.save(run / "tokenizer.json")
    source.unlink()
    assert prepare(str(run)).fingerprint == dataset.fingerprint
    for without in (None, str(tmp_path / "other")):
        with pytest.raises(ValueError, match=r"tokenizer.json' is not a file; use bpe"):
            prepare(without)

"""Other data are measured on as they are."""

import json

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.other_data import OtherData, on_other_data


def test_all_documents_are_measured_whatever_the_run_drops_of_its_own(tmp_path):
    texts = ["A text that is there twice.", "Another text.", "A text that is there twice."]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "own.txt").write_text("A text of the run's own, long enough to hold a part out. " * 20)
    own = DataConfig(
        files=(str(tmp_path / "own.txt"),), tokenizer="bytes", duplicates="drop_exact", sequence_length=16
    )
    made = prepare(own, "causal", cache=tmp_path / "cache", log=lambda line: None)
    experiment = Experiment(name="run", steps=1, data=own)
    other = on_other_data(
        experiment, OtherData(str(tmp_path / "other.jsonl"), {}), made.directory / "tokenizer.json"
    )
    dataset = prepare(other.data, "causal", cache=tmp_path / "cache", log=lambda line: None)
    assert dataset.statistics["valid"]["num_documents"] == 3

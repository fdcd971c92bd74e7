"""TFDS datasets are read without TensorFlow; text becomes str, and class labels become their names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flaxmill.data.files.tfds_rows import open_tfds, read_tfds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A dataset of three rows with the features that tasks read, the last label unknown."""
    import tensorflow_datasets as tfds

    class Small(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # otherwise TFDS looks for its source, with a library it does not require
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["bad", "good"]),
                "score": np.float32,
                "words": tfds.features.Sequence(tfds.features.Text()),
                "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B"])),
                "answers": tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32}),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

        def _generate_examples(self, num):
            for number in range(num):
                yield (
                    number,
                    {
                        "text": f"é {number}",
                        "label": (0, 1, -1)[number],
                        "score": 0.5,
                        "words": ["a", "b"],
                        "tags": [0, 1],
                        "answers": {"text": ["é"], "answer_start": [0]},
                    },
                )

    directory = tmp_path_factory.mktemp("tfds")
    Small(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture
def data_dir(prepared, monkeypatch):
    # TFDS reads TFDS_DATA_DIR into this constant when it is first imported.
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(prepared))
    return prepared


def test_values_are_those_of_python(prepared):
    split = open_tfds(f"tfds:{prepared}/small/1.0.0", is_training=True)
    rows = sorted(read_tfds(split), key=lambda row: row.values["text"])
    assert rows[1].values == {
        "text": "é 1",
        "label": "good",
        "score": 0.5,
        "words": ["a", "b"],
        "tags": ["O", "B"],
        "answers": {"text": ["é"], "answer_start": [0]},
    }
    assert [row.values["label"] for row in rows] == ["bad", "good", None]
    assert split.name == f"tfds:{prepared}/small/1.0.0:train"
    assert {row.place for row in rows} == {f"row {number} of {split.name}" for number in (1, 2, 3)}


def test_held_out_rows_are_those_of_validation_or_else_of_test(prepared):
    assert len(open_tfds(f"tfds:{prepared}/small/1.0.0", is_training=False).rows) == 1
    assert len(open_tfds(f"tfds:{prepared}/small/1.0.0:train[:67%]", is_training=False).rows) == 2


def test_a_name_is_found_below_the_data_directory(data_dir):
    assert len(open_tfds("tfds:small", is_training=True).rows) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tfds:smaller_and_unknown",
            r"^'tfds:smaller_and_unknown' is not a dataset that TFDS finds \(Dataset small",
        ),
        ("tfds:small:dev", r"^'tfds:small:dev' cannot be read \(.*; prepare it with .* splits: train, test$"),
        (
            "tfds:mnist",
            r"^'tfds:mnist' is not prepared below TFDS_DATA_DIR; prepare it there with file_format=",
        ),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(data_dir, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_tfds(name, is_training=True)
    assert "\n" not in str(caught.value)


def test_a_dataset_of_tfrecords_says_how_to_prepare_it(prepared):
    path = prepared / "small" / "1.0.0"
    info = (path / "dataset_info.json").read_text()
    other = prepared / "records" / "small" / "1.0.0"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    (other / "features.json").write_text((path / "features.json").read_text())
    command = (
        r"is stored as tfrecord, .* python -m tensorflow_datasets\.scripts\.convert_format "
        rf"--dataset_version_dir={other} --out_file_format=array_record$"
    )
    with pytest.raises(ValueError, match=command):
        open_tfds(f"tfds:{other}", is_training=True)


def test_a_dataset_of_tfrecords_is_read_once_it_is_stored_as_array_record_too(prepared):
    """The state that TFDS's convert_format leaves: both formats side by side."""
    path = prepared / "small" / "1.0.0"
    other = shutil.copytree(path, prepared / "both" / "small" / "1.0.0")
    info = json.loads((path / "dataset_info.json").read_text())
    info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    (other / "dataset_info.json").write_text(json.dumps(info))
    assert len(list(read_tfds(open_tfds(f"tfds:{other}", is_training=True)))) == 3


def test_a_version_is_part_of_the_name(data_dir):
    assert len(open_tfds("tfds:small:1.0.0", is_training=True).rows) == 3
    assert len(open_tfds("tfds:small:1.*.*:train[:67%]", is_training=True).rows) == 2
    with pytest.raises(ValueError, match=r"'tfds:small:2\.0\.0:train' is not a dataset that TFDS finds"):
        open_tfds("tfds:small:2.0.0:train", is_training=True)

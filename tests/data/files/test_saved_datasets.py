"""Datasets that save_to_disk wrote are read in the order of their rows, by the split that is named."""

import json

import pytest
from token_writers import save_splits, save_to_disk

from flaxmill.data.config import DataConfig
from flaxmill.data.files.saved_datasets import find_saved
from flaxmill.data.text.corpora import text_sources

ROWS = [{"text": f"row {number}", "n": number} for number in range(20)]


def texts_of(spec, is_training=True, **settings):
    sources = text_sources(
        DataConfig(**settings), [str(spec)], "data.files", lambda line: None, is_training=is_training
    )
    return [document.text for document in sources.read()]


@pytest.fixture
def splits(tmp_path):
    rows = {"train": ROWS, "validation": ROWS[:4], "odd:name": ROWS[5:7]}
    return save_splits(tmp_path / "saved", rows)


@pytest.mark.parametrize("num_files", [1, 3, 20])
def test_rows_come_in_their_order(tmp_path, num_files):
    directory = save_to_disk(tmp_path / "saved", ROWS, num_files)
    assert texts_of(directory) == [row["text"] for row in ROWS]


def test_a_split_is_named_or_is_what_the_field_wants(splits):
    assert len(texts_of(splits)) == 20
    assert len(texts_of(splits, is_training=False)) == 4
    assert len(texts_of(f"{splits}:validation")) == 4
    assert len(texts_of(splits / "validation")) == 4


def test_a_dataset_may_be_named_by_its_own_split(tmp_path):
    directory = save_to_disk(tmp_path / "saved", ROWS, split="test")
    assert len(texts_of(f"{directory}:test")) == 20
    with pytest.raises(
        ValueError, match=r"saved' is one dataset and has no split 'train'; leave the split out"
    ):
        texts_of(f"{directory}:train")


def test_what_is_no_saved_dataset_is_none(tmp_path, splits):
    assert find_saved(str(tmp_path)) is None
    assert find_saved(str(tmp_path / "a:b")) is None
    assert find_saved(":train") is None
    assert find_saved(f"{splits}:train") == (splits, "train")


def test_an_unknown_split_gets_a_guess(splits):
    with pytest.raises(
        ValueError, match=r"has no split 'valid'; it has train, .*; did you mean validation\?$"
    ):
        texts_of(f"{splits}:valid")


def test_an_unknown_column_gets_a_guess(tmp_path):
    directory = save_to_disk(tmp_path / "saved", ROWS)
    message = r"^data\.text_column='texts' is not a column of .*arrow; it has text, n; did you mean text\?$"
    with pytest.raises(ValueError, match=message):
        texts_of(directory, text_column="texts")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ('{"_data_files": true}', "lacks data files"),
        ('{"_data_files": [{"filename": "' + "a" * 5000 + '"}]}', "lacks data files"),
        ("[]", "lacks data files that its state.json names; save it again"),
        ("{", r"state\.json cannot be read \(.*; save the dataset again"),
        ('{"_data_files": [{"filename": "../other.arrow"}, 5]}', "lacks data files"),
        ('{"_data_files": [{"filename": "absent.arrow"}]}', "lacks data files"),
        (
            '{"_data_files": [{"filename": "a"}], "_indices_data_files": [{"filename": "b"}]}',
            r"keeps the order of its rows apart from them; save dataset\.flatten_indices\(\) instead",
        ),
    ],
)
def test_a_damaged_state_is_named(tmp_path, state, message):
    directory = save_to_disk(tmp_path / "saved", ROWS)
    (directory / "state.json").write_text(state)
    with pytest.raises(ValueError, match=message) as caught:
        texts_of(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("splits", [None, [], ["../other"], [".."], 5, [{}]])
def test_names_of_splits_that_name_none_are_refused(tmp_path, splits):
    directory = save_splits(tmp_path / "saved", {"train": ROWS})
    save_to_disk(tmp_path / "other", ROWS)
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(ValueError, match=r"saved' names no splits in its dataset_dict\.json; save it again$"):
        texts_of(directory)


def test_damaged_rows_are_named_with_their_file(tmp_path):
    directory = save_to_disk(tmp_path / "saved", ROWS, 1)
    (file,) = directory.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"row \d+ of {file} cannot be read") as caught:
        texts_of(directory)
    assert "\n" not in str(caught.value)


def test_the_library_that_writes_them_agrees(tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install datasets to compare with it")
    rows = [{"text": f"row {number}", "ids": [number, number + 1]} for number in range(2500)]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    assert texts_of(tmp_path / "one") == datasets.load_from_disk(tmp_path / "one")["text"][:]
    chosen = whole.shuffle(seed=1).select(range(100))
    datasets.DatasetDict(train=chosen, test=whole).save_to_disk(tmp_path / "many")
    assert texts_of(tmp_path / "many") == chosen["text"][:]
    assert json.loads((tmp_path / "many" / "dataset_dict.json").read_text()) == {"splits": ["train", "test"]}
    assert texts_of(f"{tmp_path}/many:test") == whole["text"][:]

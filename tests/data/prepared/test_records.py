"""Records hold what was written, and any protobuf or TFDS reader finds it there."""

from typing import Any

import numpy as np
import pytest

from flaxmill.data.prepared.records import Field, RecordFormat
from flaxmill.data.prepared.shard_reader import ShardReader
from flaxmill.data.prepared.shards import ShardWriter, name_shards
from flaxmill.data.prepared.tfds_metadata import write_tfds_metadata

FORMAT = RecordFormat(
    [Field("tokens", "uint16", (200,)), Field("label", "int32", ()), Field("bits", "uint8", (3,))]
)
DESCRIPTION = 'The "Wörter" of a test'


def _rows(num_rows):
    numbers = np.arange(num_rows)
    return {
        "tokens": (numbers[:, None] * 7 + np.arange(200)).astype(np.uint16),
        "label": numbers.astype(np.int32),
        "bits": np.stack([numbers % 251] * 3, axis=1).astype(np.uint8),
    }


@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_decode_is_the_inverse_of_encode(num_rows):
    rows = _rows(num_rows)
    decoded = FORMAT.decode(FORMAT.encode(rows))
    assert decoded.keys() == rows.keys()
    for name, values in rows.items():
        np.testing.assert_array_equal(decoded[name], values)
        assert decoded[name].dtype == values.dtype


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr("flaxmill.data.prepared.shards._SHARD_BYTES", FORMAT.num_bytes * 40)
    shards = {}
    for split, sizes in {"train": (100, 30), "valid": (7,)}.items():
        writers = [ShardWriter(tmp_path, f"{split}-{number}", FORMAT) for number in range(len(sizes))]
        first = 0
        for writer, size in zip(writers, sizes, strict=True):
            writer.write({name: values[first : first + size] for name, values in _rows(130).items()})
            writer.close()
            first += size
        shards[split] = name_shards(tmp_path, split, [shard for writer in writers for shard in writer.shards])
    write_tfds_metadata(tmp_path, FORMAT, shards, DESCRIPTION)
    return tmp_path, shards


def test_shards_have_a_fixed_number_of_rows_and_names_that_count_them(directory):
    path, shards = directory
    assert [shard.num_rows for shard in shards["train"]] == [40, 40, 20, 30]
    assert shards["train"][1].file == "flaxmill-train.array_record-00001-of-00004"
    assert all((path / shard.file).stat().st_size == shard.num_bytes for shard in shards["train"])


def test_rows_are_read_in_any_order_across_shards(directory):
    path, shards = directory
    wanted = np.array([129, 0, 40, 39, 99, 100, 0])
    reader = ShardReader(path, shards["train"])
    decoded = FORMAT.decode(reader.read(wanted))
    np.testing.assert_array_equal(decoded["label"], wanted)
    np.testing.assert_array_equal(decoded["tokens"], _rows(130)["tokens"][wanted])
    assert reader.read(wanted[:0]) == []
    reader.close()
    assert reader.read(wanted)[0] == FORMAT.encode(_rows(130))[129]


def test_the_number_of_open_files_is_bounded(directory, monkeypatch):
    monkeypatch.setattr("flaxmill.data.prepared.shard_reader._MAX_OPEN_FILES", 2)
    path, shards = directory
    reader = ShardReader(path, shards["train"])
    for _ in range(3):
        decoded = FORMAT.decode(reader.read(np.arange(130)))
        np.testing.assert_array_equal(decoded["label"], np.arange(130))
        assert len(reader._open) == 2


def test_tfds_reads_the_same_rows(directory):
    import tensorflow_datasets as tfds

    path, _ = directory
    builder: Any = tfds.builder_from_directory(path)
    assert builder.info.splits["train"].num_examples == 130
    row = builder.as_data_source(split="train")[101]
    expected = {name: values[101] for name, values in _rows(130).items()}
    for name, values in expected.items():
        np.testing.assert_array_equal(row[name], values)
        assert row[name].dtype == values.dtype


def test_the_metadata_are_those_that_tfds_writes(directory):
    import tensorflow_datasets as tfds
    from etils import epath

    path, shards = directory
    own = [(path / name).read_bytes() for name in ("dataset_info.json", "features.json")]
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(path),
        dataset_name="flaxmill",
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    features: Any = {
        field.name: tfds.features.Tensor(
            shape=field.shape, dtype=np.dtype(field.dtype).type, encoding=tfds.features.Encoding.BYTES
        )
        for field in FORMAT.fields
    }
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.num_rows for shard in its],
            num_bytes=sum(shard.num_bytes for shard in its),
            filename_template=template.replace(split=split),
        )
        for split, its in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        filename_template=template,
        version="1.0.0",
        check_data=False,  # its check goes through TensorFlow
        description=DESCRIPTION,
    )
    assert [(path / name).read_bytes() for name in ("dataset_info.json", "features.json")] == own


def test_a_flipped_byte_gives_the_right_rows_or_an_error_that_names_the_file(directory):
    path, shards = directory
    shard = path / shards["valid"][0].file
    whole, rows = shard.read_bytes(), np.arange(7)
    expected = ShardReader(path, shards["valid"]).read(rows)
    num_errors = 0
    for place in range(0, len(whole), len(whole) // 60):
        flipped = bytearray(whole)
        flipped[place] ^= 0x20
        shard.write_bytes(flipped)
        reader = ShardReader(path, shards["valid"])
        message = None
        try:
            found = reader.read(rows)
        except OSError as error:
            message = str(error)
        reader.close()
        if message is None:
            assert found == expected
            continue
        num_errors += 1
        assert message.startswith(f"{shard} is damaged (")
        assert message.endswith(f"delete {path} to have it prepared again")
    assert num_errors

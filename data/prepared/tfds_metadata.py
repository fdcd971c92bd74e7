"""The two files that make a directory of shards a TFDS dataset: what splits it has, and what a row holds.

They are what `tfds.folder_dataset.write_metadata` writes, byte for byte, without the import of
tensorflow_datasets, which costs a first start a third of a second.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.prepared.records import Field, RecordFormat
from flaxmill.data.prepared.shards import DATASET_NAME, Shard

_FEATURES = "tensorflow_datasets.core.features"


def write_tfds_metadata(
    directory: Path, record_format: RecordFormat, shards: Mapping[str, Sequence[Shard]], description: str
) -> None:
    """Writes dataset_info.json and features.json, so that tfds.builder_from_directory opens the rows."""
    info = {
        "description": description,
        "fileFormat": "array_record",
        "name": DATASET_NAME,
        "splits": [_describe_split(split, its_shards) for split, its_shards in shards.items()],
        "version": "1.0.0",
    }
    features = {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": {field.name: _describe(field) for field in record_format.fields}},
    }
    (directory / "dataset_info.json").write_text(json.dumps(info, sort_keys=True, indent=2))
    (directory / "features.json").write_text(json.dumps(features, sort_keys=True, indent=4))


def _describe_split(split: str, shards: Sequence[Shard]) -> dict[str, Any]:
    """Protobuf's JSON: 64-bit numbers are texts."""
    return {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": split,
        "numBytes": str(sum(shard.num_bytes for shard in shards)),
        "shardLengths": [str(shard.num_rows) for shard in shards],
    }


def _describe(field: Field) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in field.shape]} if field.shape else {}
    tensor = {"dtype": np.dtype(field.dtype).name, "encoding": "bytes", "shape": dimensions}
    return {"pythonClassName": f"{_FEATURES}.tensor_feature.Tensor", "tensor": tensor}

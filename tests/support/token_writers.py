"""Files of token ids and saved datasets, written as their own tools write them."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The codes of Megatron-LM's index.
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_indexed(path: Path, documents: Sequence[Sequence[Any]], dtype: str = "uint16") -> Path:
    """Write Megatron-LM's .bin and .idx of documents of sequences; returns the .bin."""
    sequences = [np.array(sequence, dtype) for document in documents for sequence in document]
    path.write_bytes(b"".join(sequence.tobytes() for sequence in sequences))
    lengths = np.array([len(sequence) for sequence in sequences], "<i4")
    pointers = np.cumsum([0, *(sequence.nbytes for sequence in sequences)])[:-1].astype("<i8")
    firsts = np.cumsum([0, *(len(document) for document in documents)]).astype("<i8")
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(firsts))
    path.with_suffix(".idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + firsts.tobytes())
    return path


def save_to_disk(
    directory: Path, rows: Sequence[dict[str, Any]], num_files: int = 2, split: str = ""
) -> Path:
    """Write a dataset as `datasets.Dataset.save_to_disk` does: Arrow streams, and what is in them."""
    import pyarrow

    directory.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(list(rows))
    names = [f"data-{number:05d}-of-{num_files:05d}.arrow" for number in range(num_files)]
    for number, name in enumerate(names):
        first, last = (len(rows) * part // num_files for part in (number, number + 1))
        part = table.slice(first, last - first)
        file = pyarrow.OSFile(str(directory / name), "wb")
        with file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part, max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split or None}
    (directory / "state.json").write_text(json.dumps(state))
    (directory / "dataset_info.json").write_text("{}")
    return directory


def save_splits(directory: Path, splits: Mapping[str, Sequence[dict[str, Any]]]) -> Path:
    """Write several datasets as `datasets.DatasetDict.save_to_disk` does."""
    for split, rows in splits.items():
        save_to_disk(directory / split, rows, split=split)
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return directory

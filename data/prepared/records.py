"""Rows as bytes: tf.train.Example messages whose fields have fixed sizes, written and read as arrays.

TFDS reads the same records. Since every field keeps its size, a record's bytes are a constant frame around
the values, and thousands of rows are packed or unpacked by one NumPy copy, without a protobuf call per row.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Field(NamedTuple):
    """A tensor in every row."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))


class RecordFormat:
    """How the fields lie in a record of `num_bytes` bytes."""

    def __init__(self, fields: Sequence[Field]):
        self.fields = tuple(sorted(fields))
        frame, self._offsets = b"", {}
        for field in self.fields:
            before = _before_value(field)
            self._offsets[field.name] = len(frame) + len(before)
            frame += before + bytes(field.num_bytes)
        header = _length_delimited_header(1, len(frame))
        self._offsets = {name: offset + len(header) for name, offset in self._offsets.items()}
        self._frame = np.frombuffer(header + frame, np.uint8)
        self.num_bytes = len(self._frame)

    def encode(self, rows: Mapping[str, np.ndarray]) -> list[bytes]:
        """Records of rows given as {name: [rows, *shape]}."""
        num_rows = len(rows[self.fields[0].name])
        records = np.tile(self._frame, (num_rows, 1))
        for field in self.fields:
            values = np.ascontiguousarray(rows[field.name], np.dtype(field.dtype).newbyteorder("<"))
            start = self._offsets[field.name]
            flat = values.reshape(num_rows, field.num_bytes // values.itemsize)
            records[:, start : start + field.num_bytes] = flat.view(np.uint8)
        return [record.tobytes() for record in records]

    def decode(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Rows as {name: [rows, *shape]}; the inverse of encode."""
        bytes_ = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), self.num_bytes)
        rows = {}
        for field in self.fields:
            start = self._offsets[field.name]
            values = np.ascontiguousarray(bytes_[:, start : start + field.num_bytes])
            little_endian = values.view(np.dtype(field.dtype).newbyteorder("<"))
            rows[field.name] = little_endian.reshape(len(records), *field.shape)
        return rows


def _before_value(field: Field) -> bytes:
    """What precedes the value in Example.features.feature[name].bytes_list.value[0].

    https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/example.proto
    """
    value = _length_delimited_header(1, field.num_bytes)
    bytes_list = _length_delimited_header(1, len(value) + field.num_bytes)
    feature = _length_delimited_header(2, len(bytes_list) + len(value) + field.num_bytes)
    name = field.name.encode()
    key = _length_delimited_header(1, len(name)) + name
    size = len(key) + len(feature) + len(bytes_list) + len(value) + field.num_bytes
    return _length_delimited_header(1, size) + key + feature + bytes_list + value


def _length_delimited_header(number: int, size: int) -> bytes:
    """Protobuf's tag of a length-delimited field, and the length as a varint."""
    header = bytearray([number << 3 | 2])
    while size >= 0x80:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)

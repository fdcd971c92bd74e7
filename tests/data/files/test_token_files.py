"""Files of token ids give back the ids that were written, and damaged ones are named in one line."""

import functools
import operator
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_writers import CODES, write_indexed

from flaxmill.data.files import token_files
from flaxmill.data.files.token_files import find_index, read_blocks, read_documents

DOCUMENTS = st.lists(st.lists(st.lists(st.integers(0, 120), max_size=5), max_size=3), min_size=1, max_size=9)


def documents_of(path):
    return [ids.tolist() for _, ids in read_documents(path, path.with_suffix(".idx"))]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_raw_file_is_its_ids_whatever_the_size_of_a_block(tmp_path, monkeypatch, dtype):
    ids = np.random.default_rng(0).integers(0, 60_000, 10_000).astype(dtype)
    ids.tofile(tmp_path / "a.bin")
    for size in (1, 999, 10_000, 1 << 20):
        if size == 1 and dtype == "uint32":
            continue
        monkeypatch.setattr(token_files, "_TOKENS_AT_ONCE", size)
        blocks = list(read_blocks(tmp_path / "a.bin", dtype))
        assert np.array_equal(np.concatenate(blocks), ids)
        assert max(map(len, blocks)) <= size


@pytest.mark.parametrize(("mark", "version", "dtype"), [(20240520, 1, "uint16"), (20240801, 7, "uint32")])
def test_the_header_of_llm_c_is_no_ids_and_tells_their_type(tmp_path, mark, version, dtype):
    ids = np.random.default_rng(0).integers(0, 60_000, 5_000).astype(dtype)
    header = np.zeros(256, np.int32)
    header[:3] = mark, version, len(ids)
    (tmp_path / "a.bin").write_bytes(header.tobytes() + ids.tobytes())
    for raw_dtype in ("uint16", "uint32"):
        assert np.array_equal(np.concatenate(list(read_blocks(tmp_path / "a.bin", raw_dtype))), ids)
    (tmp_path / "a.bin").write_bytes(header.tobytes() + ids.tobytes()[:-2])
    with pytest.raises(ValueError, match=r"its header tells of 5,000 ids of . bytes; get it again"):
        next(read_blocks(tmp_path / "a.bin", "uint16"))


def test_a_file_that_only_begins_with_that_mark_is_ids(tmp_path):
    ids = np.zeros(1000, np.uint32)
    ids[0] = 20240520
    ids.tofile(tmp_path / "a.bin")
    assert np.concatenate(list(read_blocks(tmp_path / "a.bin", "uint32"))).tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64", "uint64", ">u2", "uint8"])
def test_an_array_says_its_own_type(tmp_path, dtype):
    ids = np.arange(200).astype(dtype)
    np.save(tmp_path / "a.npy", ids)
    assert np.concatenate(list(read_blocks(tmp_path / "a.npy", "uint16"))).tolist() == list(range(200))


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, dtype=st.sampled_from(sorted(CODES)), at_once=st.integers(1, 4))
def test_an_index_gives_its_documents(tmp_path_factory, documents, dtype, at_once):
    path = write_indexed(tmp_path_factory.mktemp("indexed") / "a.bin", documents, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "_DOCUMENTS_AT_ONCE", at_once)
        assert documents_of(path) == [functools.reduce(operator.iadd, document, []) for document in documents]


def test_an_index_may_point_anywhere_in_its_file(tmp_path):
    path = write_indexed(tmp_path / "a.bin", [[[1, 2]], [[3], [4, 5]]])
    index = path.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    pointers = 9 + 25 + 3 * 4
    data[pointers : pointers + 24] = struct.pack("<3q", 2, 8, 0)  # the first two of each that overlap
    index.write_bytes(data)
    assert documents_of(path) == [[2, 3], [5, 1, 2]]


def test_a_file_without_an_index_has_none(tmp_path):
    np.arange(9, dtype="uint16").tofile(tmp_path / "a.bin")
    assert find_index(tmp_path / "a.bin") is None
    assert find_index(write_indexed(tmp_path / "b.bin", [[[1]]])) == tmp_path / "b.idx"


def test_an_odd_size_is_no_number_of_ids(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0" * 6)
    with pytest.raises(
        ValueError, match=r"a\.bin has 6 bytes, .* data\.token_dtype=uint32; correct the type"
    ):
        list(read_blocks(tmp_path / "a.bin", "uint32"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.int32), r"holds int32 of shape 3x4, and token ids are integers in one row"),
        (np.zeros(3), r"holds float64 of shape 3, and token ids are integers"),
        (np.array(["a", {}], dtype=object), r"holds object of shape 2"),
    ],
)
def test_an_array_of_anything_else_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        list(read_blocks(tmp_path / "a.npy", "uint16"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"not an array",
        b"\x93NUMPY\x01\x00\x02\x00({",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': 1, }\n",
    ],
)
def test_what_is_no_array_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy is not a \.npy file") as caught:
        list(read_blocks(tmp_path / "a.npy", "uint16"))
    assert "\n" not in str(caught.value)


def test_an_array_that_was_cut_short_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(50))
    os.truncate(tmp_path / "a.npy", (tmp_path / "a.npy").stat().st_size - 8)
    with pytest.raises(ValueError, match=r"a\.npy is cut short: its header tells of 50 ids"):
        list(read_blocks(tmp_path / "a.npy", "uint16"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"other" + data[5:], r"a\.idx is not an index that Megatron-LM writes"),
        (lambda data: data[:20], r"a\.idx is not an index"),
        (lambda data: data[:9] + b"\2" + data[10:], r"a\.idx has version 2"),
        (lambda data: data[:17] + b"\7" + data[18:], r"a type of ids with the code 7"),
        (lambda data: data[:-1], r"a\.idx is cut short"),
        (lambda data: data[:34] + struct.pack("<i", 999) + data[38:], r"a\.idx points beyond the end"),
        (
            lambda data: data[:-8] + struct.pack("<q", -5),
            r"a\.idx is damaged: its documents are not in order",
        ),
    ],
)
def test_a_damaged_index_is_named(tmp_path, change, message):
    path = write_indexed(tmp_path / "a.bin", [[[1, 2]], [[3]]])
    path.with_suffix(".idx").write_bytes(change(path.with_suffix(".idx").read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        documents_of(path)
    assert "\n" not in str(caught.value)

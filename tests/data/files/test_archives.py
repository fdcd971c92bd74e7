"""Archives are read to their end, any damage is reported, and files without text are refused by name."""

import bz2
import gzip
import lzma
import sys
from pathlib import Path

import pytest

from flaxmill.data.files.archives import format_suffix, open_bytes, refuse_binary

TEXT = "".join(f"line {number} é\n" for number in range(20_000)).encode()


def pack(suffix: str, data: bytes) -> bytes:
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(data)


def read(path: Path) -> bytes:
    with open_bytes(path) as file:
        return file.read()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst", ".GZ"])
def test_an_archive_is_its_content(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack(suffix.lower(), TEXT) + pack(suffix.lower(), b"end\n"))  # many writers append
    assert read(path) == TEXT + b"end\n"
    assert format_suffix(path) == ".txt"
    with open_bytes(path) as file:
        assert sum(1 for _ in file) == 20_001


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("left", [0.5, 0.999])
def test_an_archive_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path, suffix, left):
    path = tmp_path / f"a.txt{suffix}"
    packed = pack(suffix, TEXT)
    path.write_bytes(packed[: int(len(packed) * left)])
    with pytest.raises(ValueError, match=r"a\.txt\.\w+ is damaged \(.*\); get it again$") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_what_only_is_called_an_archive_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"plain text")
    with pytest.raises(
        ValueError, match=rf"a\{suffix} (is damaged|cannot be read) \(.+\); (get it again|check it)$"
    ):
        read(path)


def test_zstd_without_a_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    path = tmp_path / "a.txt.zst"
    path.write_bytes(pack(".gz", TEXT))
    with pytest.raises(ValueError, match=r"a\.txt\.zst needs zstandard to be read; pip install zstandard$"):
        read(path)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("a.zip", "unpack it, and name its files"),
        ("a.tar.gz", "unpack it, and name its files"),
        ("a.TGZ", "unpack it, and name its files"),
        ("a.pdf", r"export its text as \.txt or \.jsonl"),
        ("a.npy.gz", r"export its text as \.txt or \.jsonl"),
        ("a.bin", r"export its text as \.txt or \.jsonl"),
        ("a.pkl", r"export its text as \.txt or \.jsonl"),
        ("a.arrow", r"export its text as \.txt or \.jsonl"),
    ],
)
def test_what_holds_no_text_is_refused_by_its_suffix(name, fix):
    with pytest.raises(ValueError, match=rf"^data\.files='{name}': a \.\w+ file is neither text .*; {fix}$"):
        refuse_binary(Path(name), "data.files")


@pytest.mark.parametrize("name", ["a.txt", "README", "a.py", "a.jsonl.gz", "a.v1.2", ".gz", "a.md.zst"])
def test_what_may_hold_text_is_not_refused(name):
    refuse_binary(Path(name), "data.files")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt cannot be read \(No such file or directory\); check it$"):
        read(tmp_path / "a.txt")

"""A directory is its text files and tables, however deep, in order; what is skipped is said."""

import os

import pytest

from flaxmill.data.files.directories import find_in_directory


def found_in(directory, lines=None):
    log = (lambda line: None) if lines is None else lines.append
    return [str(path.relative_to(directory)) for path in find_in_directory(directory, "data.files", log)]


def write(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("text")


def test_files_are_found_in_order_at_any_depth(tmp_path):
    write(tmp_path, "b.txt", "a/z.md", "a/b/c.jsonl.gz", "c.PY", "d.parquet", "e.tsv.zst")
    assert found_in(tmp_path) == ["a/b/c.jsonl.gz", "a/z.md", "b.txt", "c.PY", "d.parquet", "e.tsv.zst"]


def test_hidden_files_and_directories_are_left_out_without_a_word(tmp_path):
    write(tmp_path, "a.txt", ".b.txt", ".git/c.txt", "d/.e/f.txt")
    lines = []
    assert found_in(tmp_path, lines) == ["a.txt"]
    assert lines == []


def test_what_is_skipped_is_said_in_one_line(tmp_path):
    write(tmp_path, "a.txt", "b.png", "c/d.png", "e.bin", "LICENSE", "f.so")
    lines = []
    assert found_in(tmp_path, lines) == ["a.txt"]
    expected = f"data.files={tmp_path}: reading 1 files; 5 skipped (2 with .png, "
    assert len(lines) == 1
    assert lines[0].startswith(expected)
    assert lines[0].endswith("and 1 more)")


@pytest.mark.parametrize("names", [(), ("a.png", ".b.txt")])
def test_a_directory_without_text_is_named(tmp_path, names):
    write(tmp_path, *names)
    with pytest.raises(
        ValueError, match=r"^data\.files='.*' holds no text file and no table \(.*; give its files"
    ):
        found_in(tmp_path)


def test_links_to_directories_are_followed_but_in_no_circle(tmp_path):
    write(tmp_path / "other", "x.txt")
    write(tmp_path / "main", "a.txt")
    os.symlink(tmp_path / "other", tmp_path / "main" / "link")
    os.symlink(tmp_path / "main", tmp_path / "main" / "self")
    os.symlink(tmp_path / "absent", tmp_path / "main" / "broken.txt")
    assert found_in(tmp_path / "main") == ["a.txt", "link/x.txt"]


def test_a_directory_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def refuse(path):  # root, who may run the tests, reads every directory
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        ValueError, match=r"^data\.files cannot be read \(.*closed'\); check its permissions$"
    ):
        found_in(tmp_path)

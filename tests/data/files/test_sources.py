"""Files are found by their patterns, each once, and what cannot be read as a file is refused."""

import os

import pytest

from flaxmill.data.files.sources import find_files, make_file_source, read_once, refuse_missing


def sources(*paths):
    return [make_file_source(path, "data.files", lambda: iter(())) for path in paths]


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        ValueError, match=r"^data\.files='.*pipe' is a pipe or a device, which cannot be read twice"
    ):
        find_files([str(tmp_path / "pipe")], "data.files")


def test_binary_files_are_refused_where_they_are_found(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^data\.valid_files='.*a\.npy': a \.npy file is neither text nor a table"
    ):
        find_files([str(tmp_path / "*")], "data.valid_files")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_under_two_names_is_read_once_and_that_is_said(tmp_path, link):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("text")
    link(path, other)
    lines = []
    found = read_once("data.files=*", sources(path, other), lines.append)
    assert [source.path for source in found.sources] == [path]
    assert lines == [f"data.files=*: {other} is {path} under another name, and read once"]


def test_many_names_are_told_by_a_few(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    links = [tmp_path / f"link{number}" for number in range(5)]
    for link in links:
        link.symlink_to(path)
    lines = []
    read_once("data.files=*", sources(path, *links), lines.append)
    assert lines[0].endswith(f"link2 is {path} and 2 more under another name, and read once")


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path):
    name = os.fsdecode(b"odd\xff.txt")
    (tmp_path / name).write_text("text")
    found = read_once(f"data.files={name}", sources(tmp_path / name), lambda line: None)
    assert found.name == "data.files=odd\\udcff.txt"


def test_a_file_that_two_patterns_match_is_read_once_without_a_word(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    lines = []
    assert len(read_once("data.files=*", sources(path, path), lines.append).sources) == 1
    assert lines == []


def test_missing_files_are_refused_and_what_only_its_reader_knows_is_not(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    elsewhere = ("embedded:code", "tfds:wiki40b/en", "gs://bucket/a.txt", "python:mine")
    refuse_missing(
        [str(tmp_path / "*.txt"), str(tmp_path), f"{tmp_path}/saved:train", *elsewhere], "data.files"
    )
    with pytest.raises(ValueError, match=r"data\.files='.*b\.txt' names no file"):
        refuse_missing([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], "data.files")

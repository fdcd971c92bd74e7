import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxmill.train.terminal.output_places import file_place, folder_place


def test_a_file_may_be_new_or_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_place("page.html", "html", "x.html") == Path("page.html")
    Path("page.html").write_text("")
    assert file_place("page.html", "html", "x.html") == Path("page.html")


def test_a_directory_may_be_there_or_made(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a" / "b"):
        assert folder_place(str(path), "save") == path
    assert list(tmp_path.iterdir()) == []  # asking makes nothing


@pytest.mark.parametrize("place", ["file", "file/below", "dangling", "dangling/below"])
def test_what_is_no_directory_takes_no_files(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(
        ValueError, match=r"save=.* is (no directory|below .*, no directory); name a directory"
    ):
        folder_place(str(tmp_path / place), "save")
    with pytest.raises(ValueError, match=r"html=.*, which is no directory; name a file, such as plan\.html"):
        file_place(str(tmp_path / place / "page.html"), "html", "plan.html")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    for name in ("page.html", "other.html"):
        with pytest.raises(ValueError, match=r"html=.* cannot be written; name a file"):
            file_place(str(tmp_path / name), "html", "plan.html")
    for path in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match=r"save=.* cannot be written; name a directory"):
            folder_place(str(path), "save")


@pytest.mark.parametrize(
    "command",
    [("eval", "no-run"), ("tokenizer", "train", "no-text", "--kind", "bpe"), ("plan", "--topology", "cpu:8")],
)
def test_a_place_is_refused_before_anything_is_read(
    flaxmill: Callable[..., Any], command: tuple[str]
) -> None:
    option = "--save" if command[0] == "plan" else "--output"
    code, out, err = flaxmill(*command, option, __file__)
    assert (code, out) == (2, "")
    assert err.startswith(f"flaxmill: error: {option[2:]}={__file__} is no directory; name a directory")
    assert err.count("\n") == 1

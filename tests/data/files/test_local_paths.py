"""A path is taken as it is typed; a remote one is refused before anything is made."""

import os
from pathlib import Path

import pytest
from odd_names import ODD_NAMES

from flaxmill.data.config import DataConfig
from flaxmill.data.files.local_paths import local_path, match_files, refuse_remote
from flaxmill.train.experiment import Experiment, with_absolute_paths

REMOTE = ("gs://bucket/run", "s3://bucket", "http://host/run", "hf://name/model", "AZ://x/y")


@pytest.mark.parametrize("text", REMOTE)
def test_a_remote_place_is_refused_with_its_option_and_the_fix(text):
    with pytest.raises(ValueError, match="mount or copy it, and give the local path") as raised:
        local_path(text, "--run-dir")
    assert str(raised.value).startswith(f"--run-dir={text} is remote")


def test_a_url_of_a_file_is_met_with_its_path():
    with pytest.raises(ValueError, match=r"HF_DIR=file:///a/b is a URL; give the path alone, /a/b$"):
        refuse_remote("file:///a/b", "HF_DIR")


@pytest.mark.parametrize("text", ["a:b", "gs:/b", "C:\\x", "://x", "1://x", "a b://c", *ODD_NAMES])
def test_what_only_looks_like_a_url_is_a_path(text):
    assert local_path(text, "RUN") == Path(text)


def test_home_is_expanded_and_a_strangers_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/at/home")
    assert local_path("~/run", "RUN") == Path("/at/home/run")
    advice = (
        r"RUN=~nobody-here/run names no user's home .*; write a path that begins so as \./~nobody-here/run"
    )
    with pytest.raises(ValueError, match=advice):
        local_path("~nobody-here/run", "RUN")


def test_a_name_that_begins_as_a_home_is_one_behind_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("~nobody-here", "~"):
        path = local_path(f"./{name}", "RUN")
        assert path == local_path(str(path), "RUN") == tmp_path / name
    assert local_path("a/~b", "RUN") == Path("a/~b")


@pytest.mark.parametrize(("text", "problem"), [("r\udcff", "not UTF-8"), ("a\0b", "a zero byte")])
def test_a_name_that_libraries_cannot_pass_on_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        local_path(text, "RUN")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_is_taken_as_it_stands_and_what_follows_as_a_pattern(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    (folder / "deep").mkdir(parents=True)
    files = [folder / "1.txt", folder / "2.txt", folder / "deep" / "3.txt"]
    for file in files:
        file.write_text("x")
    assert match_files(f"{folder}/*.txt") == [str(file) for file in files[:2]]
    assert match_files(f"{folder}/**/?.txt") == [str(file) for file in files]
    assert match_files(str(files[0])) == [str(files[0])]
    assert match_files(f"{folder}/4.txt") == []
    monkeypatch.chdir(folder)
    assert match_files("[12].txt") == ["1.txt", "2.txt"]
    # A run stores the pattern like this, since it may be continued from elsewhere.
    experiment = with_absolute_paths(Experiment(data=DataConfig(files=("*.txt",))))
    assert match_files(experiment.data.files[0]) == [str(file) for file in files[:2]]


def test_a_pattern_among_folders_still_is_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("x")
    assert match_files(f"{tmp_path}/[ab]/x.txt") == [f"{tmp_path}/a/x.txt", f"{tmp_path}/b/x.txt"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"run_dir": "gs://b/x"}, "run_dir=gs://b/x"),
        ({"init_from": "hf://b/x"}, "init_from=hf://b/x"),
        ({"data": DataConfig(files=("a.txt", "az://b/x.txt"))}, "data.files=az://b/x.txt"),
        ({"data": DataConfig(files=("a",), valid_files=("http://b",))}, "data.valid_files=http://b"),
        ({"data": DataConfig(tokenizer="hf://b/t.json")}, "data.tokenizer=hf://b/t.json"),
    ],
)
def test_an_experiment_holds_no_remote_place(changes, name):
    with pytest.raises(ValueError, match=f"^{name} is remote"):
        Experiment(**changes)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--run-dir", "gs://b/x"),
        ("train", "gpt_tiny", "--run-dir=gs://b/x"),
        ("train", "--num-seeds", "2", "--run-dir", "gs://b/x"),
        ("data", "prepare", "classify", "--data.files", "gs://b/x"),
        ("data", "show", "--run-dir", "gs://b/x"),
        ("eval", "gs://b/x"),
        ("eval", "run", "--data", "gs://b/x"),
        ("eval", "run", "--output", "gs://b/x"),
        ("generate", "gs://b/x", "The"),
        ("checkpoints", "gs://b/x"),
        ("export", "gs://b/x", "hf"),
        ("export", "run", "gs://b/x"),
        ("import", "gs://b/x", "run"),
        ("import", "hf", "gs://b/x"),
        ("import", "hf", "run", "--tokenizer", "gs://b/x"),
        ("parity", "gs://b/x"),
        ("verify-resume", "--run-dir", "gs://b/x"),
    ],
)
def test_every_command_refuses_a_remote_place_and_makes_nothing(arguments, flaxmill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = flaxmill(*arguments)
    assert (code, out) == (2, "")
    assert "gs://b/x is remote" in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []

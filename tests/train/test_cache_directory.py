from pathlib import Path

import pytest

from flaxmill.train.cache_directory import cache_directory


def test_named_place_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "a" / "b"))
    assert cache_directory() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("linux", None, ".cache/flaxmill"),
        ("linux", "relative", ".cache/flaxmill"),
        ("linux", "{home}/elsewhere", "elsewhere/flaxmill"),
        ("darwin", "{home}/elsewhere", "Library/Caches/flaxmill"),
    ],
)
def test_default_is_the_platforms_cache(monkeypatch, tmp_path, platform, xdg, expected):
    monkeypatch.delenv("FLAXMILL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg.format(home=tmp_path))
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / expected


def test_place_that_cannot_be_made_is_refused_by_name(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match=r"the cache .*file/below cannot be written; set FLAXMILL_CACHE"):
        cache_directory()


def test_a_remote_cache_is_refused(monkeypatch):
    monkeypatch.setenv("FLAXMILL_CACHE", "gs://bucket/cache")
    with pytest.raises(ValueError, match=r"^FLAXMILL_CACHE=gs://bucket/cache is remote"):
        cache_directory()


def test_a_cache_that_libraries_take_for_a_bucket_is_refused(monkeypatch):
    monkeypatch.setenv("FLAXMILL_CACHE", "/s3/cache")
    with pytest.raises(
        ValueError, match=r"the cache /s3/cache is taken for a bucket .* a link to it elsewhere"
    ):
        cache_directory()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("FLAXMILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ValueError, match="this user has no home directory for a cache; set FLAXMILL_CACHE"):
        cache_directory()

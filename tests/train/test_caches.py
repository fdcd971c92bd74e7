import os
import subprocess
import sys
from pathlib import Path

import pytest

from flaxmill.sharding.processes.processor import count_threads
from flaxmill.train.caches import cache_directory


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


COMPILE_ONE = """
import sys, pathlib, jax, jax.numpy as jnp
from jax import monitoring
from flaxmill.train.caches import enable_compilation_cache

events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
enable_compilation_cache(pathlib.Path(sys.argv[1]))
jax.block_until_ready(jax.jit(jax.grad(lambda x: jnp.tanh(x @ x).sum()))(jnp.ones((64, 64))))
print(events.count("cache_hits"), events.count("cache_misses"))
"""


def start(cache) -> tuple[int, int, str]:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_ONE, str(cache)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    hits, misses = map(int, done.stdout.split())
    return hits, misses, done.stderr


def test_second_start_compiles_nothing_and_is_quiet(tmp_path):
    hits, misses, _ = start(tmp_path)
    assert hits == 0
    assert misses > 0
    assert start(tmp_path) == (misses, 0, "")


@pytest.mark.skipif(count_threads({}) < 2, reason="one core is one thread, whatever is asked for")
def test_a_program_for_another_number_of_threads_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # more would take a thread each
    _, misses, _ = start(tmp_path)
    monkeypatch.setenv("PJRT_NPROC", "1")
    assert start(tmp_path) == (0, misses, "")
    assert start(tmp_path) == (misses, 0, "")


def test_a_directory_of_compiled_programs_in_the_environment_has_precedence(tmp_path, monkeypatch):
    """`flaxmill plan --save` fills one."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "planned"))
    hits, misses, _ = start(tmp_path / "cache")
    assert (hits, misses > 0) == (0, True)
    assert not (tmp_path / "cache").exists()
    assert start(tmp_path / "cache") == (misses, 0, "")

"""The cache: sizes, and what of it is damaged."""

import sys
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.train.caches import keep_programs
from flaxmill.train.doctor import cache as cache_check
from flaxmill.train.doctor.cache import check_cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return tmp_path / "cache"


def lines(state):
    return [one.what for one in check_cache() if one.state == state]


def test_an_empty_cache_is_two_lines(cache):
    assert lines("ok") == [
        f"0 datasets, 0.0 MB: {cache}/data",
        f"0 compiled programs, 0.0 MB: {cache}/compiled",
    ]


def test_a_cache_that_cannot_be_made_is_left_to_the_check_of_disks(monkeypatch):
    monkeypatch.setenv("FLAXMILL_CACHE", "/proc/none")
    assert list(check_cache()) == []


@pytest.fixture
def dataset(cache, corpus):
    data = DataConfig(files=(str(corpus),), documents="blank_lines", tokenizer="bytes", sequence_length=64)
    return prepare(data, "causal", cache=cache)


def test_a_dataset_is_counted(cache, dataset):
    assert lines("wrong") == []
    assert lines("ok")[0].startswith("1 dataset, ")


def test_a_shard_that_is_cut_short_is_wrong_and_preparing_again_is_the_fix(cache, dataset):
    shard = next(dataset.directory.glob("*array_record*"))
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    (finding,) = [one for one in check_cache() if one.state == "wrong"]
    assert finding.what == f"{shard} has {size - 1} bytes, its dataset says {size}"
    assert finding.fix == f"remove {dataset.directory}; the next run prepares it again"


def test_a_preparation_that_did_not_end_is_a_remark(cache):
    (cache / "data" / ".packed-1.partial").mkdir(parents=True)
    assert lines("remark") == [f"1 preparation unfinished in {cache}/data: .packed-1.partial"]


@pytest.fixture
def program(cache):
    """A compiled program as JAX keeps it."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: jax.config.values[name] for name in names}
    compilation_cache.reset_cache()
    keep_programs(cache / "compiled" / "here")
    jax.jit(lambda x: jnp.cos(x) + 0.123)(jnp.ones(3))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    return max((cache / "compiled" / "here").glob("*-cache"), key=lambda path: path.stat().st_size)


def test_programs_are_read(cache, program):
    assert lines("wrong") == []
    assert "compiled program" in lines("ok")[1]


@pytest.mark.parametrize("kept", [0, 100])
def test_a_program_that_is_cut_short_is_wrong(cache, program, kept):
    program.write_bytes(program.read_bytes()[:kept])
    (finding,) = [one for one in check_cache() if one.state == "wrong"]
    assert finding.what == f"1 compiled program damaged, and compiled anew at every start: {program}"
    assert finding.fix == f"remove {program.parent}"


def test_programs_of_an_environment_that_packs_otherwise_are_whole(cache, program):
    packed = zlib.compress(b"a program")
    (program.parent / "other-cache").write_bytes(packed)
    assert lines("wrong") == []
    (program.parent / "other-cache").write_bytes(packed[:-3])
    (line,) = lines("wrong")
    assert line.endswith("other-cache")


def test_where_nothing_unpacks_a_program_it_is_not_judged(cache, program, monkeypatch):
    program.write_bytes(b"\x28\xb5\x2f\xfd cut short")
    assert len(lines("wrong")) == 1
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert lines("wrong") == []


def test_reading_ends_in_time(cache, program, monkeypatch):
    monkeypatch.setattr(cache_check, "MOST_SECONDS", -1.0)
    assert lines("ok")[1].endswith("; the first 0 were read, in -1 s")

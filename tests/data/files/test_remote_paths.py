"""Files in remote stores are listed and read like local ones; S3 is a server that the tests start."""

import builtins
import bz2
import gzip
import lzma
import uuid
from pathlib import Path

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.files.archives import format_suffix, is_archive, open_bytes
from flaxmill.data.files.remote_paths import RemotePath, find_remote, is_remote, look_again
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.text.corpora import text_sources
from flaxmill.train.experiment import Experiment, with_absolute_paths


@pytest.fixture(scope="module")
def s3_server():
    pytest.importorskip("s3fs", reason="needs pip install 'flaxmill[test]'")
    moto = pytest.importorskip("moto.server", reason="needs pip install 'flaxmill[test]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def store(request):
    """A store and the URL of an empty place in it."""
    import fsspec

    if request.param == "s3":
        request.getfixturevalue("s3_server")
    place = f"bucket-{uuid.uuid4().hex}"
    found = fsspec.filesystem(request.param)
    found.mkdir(place)
    return found, f"{request.param}://{place}"


def texts_of(*specs, log=lambda line: None, **settings):
    sources = text_sources(DataConfig(**settings), specs, "data.files", log)
    return [document.text for document in sources.read()]


def names_of(spec):
    return [file.path.name for file in find_remote(spec, "data.files")]


@pytest.mark.parametrize("text", ["gs://b/x", "s3://b/x", "memory://b"])
def test_a_store_is_told_by_its_scheme(text):
    assert is_remote(text)


@pytest.mark.parametrize("text", ["/a/s3://b", "http://b", "az://b", "tfds:gs://b", "gs:/b", "s3:b"])
def test_what_is_no_store_is_none(text):
    assert not is_remote(text)


def test_a_remote_path_has_the_names_of_a_path():
    path = RemotePath("gs://bucket/a/b.JSONL.gz")
    assert str(path) == "gs://bucket/a/b.JSONL.gz"
    assert (format_suffix(path), is_archive(path)) == (".jsonl", True)
    assert str(path.with_name("c.txt")) == "gs://bucket/a/c.txt"


def test_a_file_a_glob_and_a_folder_are_found_in_order(store):
    fs, url = store
    for name in ("d/b.txt", "d/a.txt", "d/deep/c.txt", "d/.hidden.txt", "d/.git/x.txt", "d/e[1].txt"):
        fs.pipe(f"{url}/{name}", b"text")
    assert names_of(f"{url}/d/a.txt") == ["a.txt"]
    assert names_of(f"{url}/d/e[1].txt") == ["e[1].txt"]
    assert names_of(f"{url}/d/*.txt") == ["a.txt", "b.txt", "e[1].txt"]
    assert names_of(f"{url}/d/.*.txt") == [".hidden.txt"]
    assert names_of(f"{url}/d/**/c.txt") == ["c.txt"]
    assert names_of(f"{url}/d") == names_of(f"{url}/d/") == ["a.txt", "b.txt", "c.txt", "e[1].txt"]


def test_a_file_is_read_as_a_local_one_is(store, tmp_path):
    fs, url = store
    text = "\n\n".join(f"wört {number} of a line" for number in range(200_000))
    data = {
        "a.txt": text.encode(),
        "b.txt.gz": gzip.compress(b"gzip"),
        "c.csv.bz2": bz2.compress(b"text\nbzip2\n"),
        "d.jsonl.xz": lzma.compress(b'{"text": "xz"}\n'),
    }
    for name, content in data.items():
        fs.pipe(f"{url}/{name}", content)
        (tmp_path / name).write_bytes(content)
    assert texts_of(f"{url}/*") == texts_of(str(tmp_path / "*"))
    assert texts_of(url) == texts_of(str(tmp_path))


def test_zstd_and_parquet_are_read_from_a_store(store, tmp_path):
    import zstandard
    from pyarrow import Table, parquet

    fs, url = store
    parquet.write_table(Table.from_pylist([{"text": "one", "n": 1}, {"text": "two", "n": 2}]), tmp_path / "a")
    fs.pipe(f"{url}/a.parquet", (tmp_path / "a").read_bytes())
    fs.pipe(f"{url}/b.txt.zst", zstandard.compress(b"three"))
    assert texts_of(url) == ["one", "two", "three"]


def test_a_folder_says_what_it_skips(store):
    fs, url = store
    fs.pipe(f"{url}/a.txt", b"text")
    fs.pipe(f"{url}/b.png", b"\x89PNG")
    fs.pipe(f"{url}/c.bin", b"\0\0")
    lines = []
    assert texts_of(url, log=lines.append) == ["text"]
    assert lines == [f"data.files={url}: reading 1 files; 2 skipped (1 with .png, 1 with .bin)"]


def test_the_inventory_changes_with_the_file(store):
    fs, url = store
    inventories = []
    for text in (b"one", b"two"):
        fs.pipe(f"{url}/a.txt", text)
        inventories.append(text_sources(DataConfig(), [f"{url}/a.txt"], "data.files", print).inventory)
    (before,), (after,) = inventories
    assert before[:2] == after[:2] == [f"{url}/a.txt", 3]
    assert before[2] != after[2]


def test_a_look_at_a_file_tells_what_its_listing_tells(store):
    fs, url = store
    fs.pipe(f"{url}/d/a.txt", b"one")
    for spec in (f"{url}/d/a.txt", f"{url}/d", f"{url}/d/*"):
        (file,) = find_remote(spec, "data.files")
        assert look_again(file.path) == file
    fs.rm(f"{url}/d/a.txt")
    assert look_again(file.path) is None


def test_a_file_that_changes_while_it_is_read_is_named(store):
    fs, url = store
    fs.pipe(f"{url}/a.txt", b"one\n" * 20_000)
    documents = text_sources(DataConfig(), [f"{url}/a.txt"], "data.files", print).read()
    next(documents)
    fs.pipe(f"{url}/a.txt", b"two\n" * 20_000)
    with pytest.raises(ValueError, match=rf"{url}/a\.txt (changed while it was read; start again|cannot be)"):
        list(documents)


@pytest.mark.parametrize("name", ["absent.txt", "*.absent", "none/"])
def test_what_a_store_lacks_is_named(store, name):
    _, url = store
    with pytest.raises(ValueError, match=r"^data\.files='\w+://.*' names no file; give the URL"):
        texts_of(f"{url}/{name}")


def test_a_binary_file_is_refused_by_its_suffix(store):
    fs, url = store
    fs.pipe(f"{url}/a.pdf", b"%PDF-1.7")
    with pytest.raises(ValueError, match=r"a \.pdf file is neither text nor a table of text"):
        texts_of(f"{url}/a.pdf")


def test_an_error_of_the_store_is_one_line(store, monkeypatch):
    fs, url = store
    fs.pipe(f"{url}/a.txt", b"text")

    def fail(*arguments, **settings):
        raise RuntimeError("403 Forbidden\nno such token")

    monkeypatch.setattr(fs, "open", fail)
    with pytest.raises(ValueError, match=r"a\.txt cannot be read \(403 Forbidden no such token\); check it$"):
        texts_of(f"{url}/a.txt")
    monkeypatch.setattr(fs, "isfile", fail)
    with pytest.raises(ValueError, match=r"^data\.files=.* cannot be listed \(403 Forbidden no such token\)"):
        texts_of(f"{url}/a.txt")


def test_any_place_of_a_file_can_be_read(store):
    fs, url = store
    fs.pipe(f"{url}/a.txt", bytes(range(100)))
    with open_bytes(RemotePath(f"{url}/a.txt")) as file:
        file.seek(90)
        assert file.read(5) == bytes(range(90, 95))
        file.seek(-3, 2)
        assert (file.tell(), file.read()) == (97, bytes(range(97, 100)))


@pytest.mark.parametrize(("scheme", "library", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, scheme, library, extra):
    real = builtins.__import__

    def without_stores(name, *rest):
        if name.split(".")[0] in ("gcsfs", "s3fs", "fsspec"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_stores)
    message = rf"^data\.files={scheme}://b/x needs {library} to be read; pip install 'flaxmill\[{extra}\]'$"
    with pytest.raises(ValueError, match=message):
        texts_of(f"{scheme}://b/x")


def test_gs_is_read_by_the_code_that_reads_the_others(monkeypatch):
    """A store in memory stands for Google's, which no server here does."""
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class InMemory(MemoryFileSystem):
        protocol = ("gs",)
        store: dict = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

    monkeypatch.setitem(_registry, "gs", InMemory)
    store = InMemory()
    store.pipe("gs://bucket/d/a.txt", b"a text")
    store.pipe("gs://bucket/d/b.jsonl.gz", gzip.compress(b'{"text": "another"}\n'))
    assert texts_of("gs://bucket/d") == ["a text", "another"]
    assert texts_of("gs://bucket/*/b.*") == ["another"]


def test_a_run_reads_from_a_store_and_finds_its_dataset_again(store, tmp_path):
    fs, url = store
    text = "\n".join(f"line {number} of a text about the mill" for number in range(3000))
    fs.pipe(f"{url}/a.txt", text.encode())
    config = DataConfig(files=(f"{url}/a.txt",), tokenizer="bytes", sequence_length=32)
    experiment = with_absolute_paths(Experiment(data=config))
    assert experiment.data.files == config.files
    lines = []
    cold = prepare(experiment.data, "causal", cache=tmp_path, log=lines.append)
    assert lines
    lines.clear()
    assert prepare(config, "causal", cache=tmp_path, log=lines.append).directory == cold.directory
    assert lines == []
    (tmp_path / "a.txt").write_text(text)
    local = prepare(
        DataConfig(files=(str(tmp_path / "a.txt"),), tokenizer="bytes", sequence_length=32),
        "causal",
        cache=tmp_path,
    )
    assert local.fingerprint == cold.fingerprint


def test_ids_are_read_from_a_store(store, tmp_path):
    import numpy as np
    from small_tokenizers import directory_of
    from token_writers import write_indexed

    fs, url = store
    path = write_indexed(tmp_path / "a.bin", [[[5, 6], [7]], [[8, 9]]])
    tokenizer = str(directory_of("gpt2") / "tokenizer.json")

    def ids_of(spec):
        sources = text_sources(DataConfig(tokenizer=tokenizer), [spec], "data.files", print)
        return [document.ids.tolist() for document in sources.read()]

    fs.pipe(f"{url}/a.bin", path.read_bytes())
    assert ids_of(f"{url}/a.bin") == [[5, 6, 7, 8, 9]]
    fs.pipe(f"{url}/a.idx", path.with_suffix(".idx").read_bytes())
    assert ids_of(f"{url}/a.*") == [[5, 6, 7], [8, 9]]
    np.save(Path(tmp_path / "b.npy"), np.array([5, 6], np.int64))
    fs.pipe(f"{url}/b.npy", (tmp_path / "b.npy").read_bytes())
    assert ids_of(f"{url}/b.npy") == [[5, 6]]


def test_labelled_examples_are_read_from_this_machine(tmp_path):
    with pytest.raises(ValueError, match=r"^data\.files=gs://b/x is remote"):
        prepare(DataConfig(files=("gs://b/x",)), "classification", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []

"""Files in remote stores, gs:// and s3://, listed and read as a stream through fsspec."""

import datetime
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# The library and our extra for each store; fsspec itself holds the last one, in this process's memory.
_STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "memory": ("fsspec", "s3")}
# What stores call the version of an object; the first that one has is enough to tell that it changed.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "updated", "created")
# A request takes some 50 ms, whatever it asks for.
_BLOCK_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_GLOB = re.compile(r"[*?[]")


class RemotePath(PurePosixPath):
    """The URL of a file, with the suffixes and names that a path has."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


class RemoteFile(NamedTuple):
    """A file of a store as its listing has it; `version` changes whenever the file does."""

    path: RemotePath
    num_bytes: int
    version: str


def is_remote(text: str) -> bool:
    """Whether it is a URL of a store that is read from."""
    found = _SCHEME.match(text)
    return found is not None and found[1] in _STORES


def find_remote(url: str, field: str) -> list[RemoteFile]:
    """The files that a URL names, a folder's or a glob's in order; none of a folder is hidden.

    Raises ValueError, naming the field, where the store's library is missing, or the store refuses.
    """
    try:
        store, path = _open_store(url, field)
        store.invalidate_cache()
        infos = list(_list(store, path))
    except ValueError:
        raise
    except Exception as error:  # each store has its own kinds
        raise ValueError(
            f"{field}={url} cannot be listed ({_reason(error)}); check its address and your credentials"
        ) from None
    if odd := next((_key(info) for info in infos if "//" in _key(info)), None):
        raise ValueError(f"{field}={url} names {odd}, with // inside its key; copy it to another key")
    scheme = url.partition("://")[0]
    files = [_describe(scheme, info) for info in infos if info["type"] == "file"]
    return sorted(files)


def look_again(path: RemotePath) -> RemoteFile | None:
    """The file as it is now; None where it is gone."""
    try:
        store, place = _open_store(str(path), str(path))
        store.invalidate_cache()
        return _describe(str(path).partition("://")[0], store.info(place))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise ValueError(f"{path} cannot be looked at again ({_reason(error)}); try again") from None


def open_remote(path: RemotePath) -> IO[bytes]:
    """The bytes of a file, read block by block. Raises OSError where the store fails."""
    store, place = _open_store(str(path), str(path))
    try:
        file = store.open(place, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
    except Exception as error:
        raise OSError(_reason(error)) from None
    return io.BufferedReader(_Stream(file), _BUFFER_BYTES)


class _Stream(io.RawIOBase):
    """A store's file with a place of its own, and errors of one kind."""

    def __init__(self, file: Any):
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size()}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        try:
            self._file.seek(self._place)
            data = self._file.read(len(buffer))
        except Exception as error:
            raise OSError(_reason(error)) from None
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _size(self) -> int:
        return self._file.seek(0, io.SEEK_END)


def _open_store(url: str, field: str) -> tuple[Any, str]:
    library, extra = _STORES[url.partition("://")[0]]
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(url)
    except ImportError:
        name = url if field == url else f"{field}={url}"
        raise ValueError(f"{name} needs {library} to be read; pip install 'flaxmill[{extra}]'") from None


def _list(store: Any, path: str) -> Iterator[dict[str, Any]]:
    """What a path names. A name that exists is taken literally, brackets and all, as local ones are."""
    if store.isfile(path):
        yield store.info(path)
    elif _GLOB.search(path):
        wants_hidden = path.rpartition("/")[2].startswith(".")
        for name, info in store.glob(path, detail=True).items():
            if wants_hidden or not name.rpartition("/")[2].startswith("."):
                yield info
    elif store.exists(path):
        root = path.rstrip("/") + "/"
        for name, info in store.find(path, detail=True).items():
            if not any(part.startswith(".") for part in name.removeprefix(root).split("/")):
                yield info


def _describe(scheme: str, info: dict[str, Any]) -> RemoteFile:
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    # A listing and a look at one file spell times in different ways.
    version = str(version.timestamp() if isinstance(version, datetime.datetime) else version).strip('"')
    return RemoteFile(RemotePath(f"{scheme}://{_key(info)}"), int(info["size"] or 0), version)


def _key(info: dict[str, Any]) -> str:
    """The bucket and the key in it; some stores give the whole URL."""
    return info["name"].rpartition("://")[2].lstrip("/")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

"""Files as streams of bytes: archives are decompressed by their suffix; files without text are refused."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any

from flaxmill.data.files.encodings import check_text
from flaxmill.data.files.remote_paths import RemotePath, open_remote

# Roughly the bytes of text for a byte of an archive; progress and a tokenizer's sample reckon with it.
EXPANSION = 4

_LOOKED_AT = 512
_REFUSED = {
    "unpack it, and name its files": (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar"),
    "export its text as .txt or .jsonl": (
        *(".pdf", ".doc", ".docx", ".odt", ".epub", ".ppt", ".pptx", ".xls", ".xlsx", ".ods"),
        *(".npy", ".npz", ".bin", ".idx", ".arrow", ".feather", ".pkl", ".pickle", ".pt", ".pth"),
        *(".safetensors", ".h5", ".hdf5", ".db", ".sqlite", ".avro", ".orc", ".tfrecord", ".array_record"),
    ),
}


def format_suffix(path: PurePath) -> str:
    """The suffix that names the format, in lower case: ".jsonl" of "a.jsonl" and of "a.JSONL.gz"."""
    return (path.with_suffix("") if is_archive(path) else path).suffix.lower()


def is_archive(path: PurePath) -> bool:
    """Whether the file is read through a decompressor."""
    return path.suffix.lower() in _OPENERS


def refuse_binary(path: PurePath, field: str, accepted: Collection[str] = ()) -> None:
    """Raises ValueError, naming the field, where the suffix says that the file holds no text.

    Args:
      accepted: suffixes of binary files that the caller reads.
    """
    suffix = format_suffix(path)
    if path.suffix.lower() in accepted:
        return
    for fix, suffixes in _REFUSED.items():
        if suffix in suffixes:
            raise ValueError(
                f"{field}={str(path)!r}: a {suffix} file is neither text nor a table of text; {fix}"
            )


@contextmanager
def open_bytes(path: PurePath) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed.

    Raises ValueError where it cannot be read, is damaged, or is not UTF-8, as its first bytes tell.
    """
    try:
        with open_raw(path) as raw, _unpack(raw, path) as file:
            stream = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
            check_text(stream.peek(_LOOKED_AT), path)
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); check it") from None


def open_raw(path: PurePath) -> IO[bytes]:
    """The file's bytes as they are stored, on this machine or in a remote store."""
    return open_remote(path) if isinstance(path, RemotePath) else open(path, "rb")


def _unpack(raw: IO[bytes], path: PurePath) -> Any:
    opener = _OPENERS.get(path.suffix.lower())
    try:
        return raw if opener is None else opener(raw, "rb")
    except ImportError:
        raise ValueError(f"{path} needs zstandard to be read; pip install zstandard") from None


def _open_zstd(raw: IO[bytes], mode: str) -> IO[bytes]:
    try:
        from compression import zstd  # since Python 3.14 # pyright: ignore[reportMissingImports]
    except ImportError:
        return _open_zstandard(raw)
    return zstd.open(raw, mode)


def _open_zstandard(raw: IO[bytes]) -> IO[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)  # as large as `zstd --ultra` makes them
    return io.BufferedReader(_ZstdFrames(raw, decompressor.decompressobj, zstandard.ZstdError))


class _ZstdFrames(io.RawIOBase):
    """Reads all frames of a zstd file; zstandard's own readers end silently where a file was cut off."""

    def __init__(self, file: IO[bytes], start_frame: Callable[[], Any], error: type[Exception]):
        self._file, self._start_frame, self._error = file, start_frame, error
        self._frame: Any = None  # begun and not yet ended
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(io.DEFAULT_BUFFER_SIZE)
            if not self._packed:
                if self._frame is None:
                    return 0
                raise EOFError("it ends inside a frame")
            self._frame = self._frame or self._start_frame()
            try:
                self._ready = self._frame.decompress(self._packed)
            except self._error as error:
                raise EOFError(str(error)) from None
            self._packed, self._frame = (
                (self._frame.unused_data, None) if self._frame.eof else (b"", self._frame)
            )
        length = min(len(buffer), len(self._ready))
        buffer[:length], self._ready = self._ready[:length], self._ready[length:]
        return length

    def close(self) -> None:
        self._file.close()
        super().close()


_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}

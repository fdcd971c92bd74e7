"""Parquet and Arrow tables as streams of rows, through pyarrow."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from flaxmill.data.files.archives import is_archive, open_raw
from flaxmill.data.files.remote_paths import RemotePath
from flaxmill.data.files.rows import Row, check_names, unknown_column, unreadable

_ROWS_AT_ONCE = 1024
# The first bytes of Arrow's file format; its stream format, in which datasets are saved, has none.
_FILE_MARK = b"ARROW1"


def read_parquet(
    path: PurePath, columns: Sequence[str] = (), beside: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Iterator[Row]:
    """Rows of all row groups, a thousand in memory at a time. Raises ValueError where they are damaged.

    Args:
      columns: read the first of them that there is, and it alone; lists of integers are then arrays.
      beside: the columns that are read too, where there are any, beside the first.
    """
    if is_archive(path):
        raise ValueError(f"{path} is a Parquet table in an archive, and compressed itself; unpack it")
    _import_pyarrow(path)
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        with _open(path) as raw, pyarrow.parquet.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            check_names(names, path)
            chosen = _choose_columns(columns, beside, names, path) if columns else None
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=chosen)

    return _read_batches(batches(), path, is_chosen=bool(columns))


def read_arrow(
    path: PurePath, columns: Sequence[str] = (), beside: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Iterator[Row]:
    """As read_parquet, from Arrow's stream or file format."""
    pyarrow = _import_pyarrow(path)

    def batches() -> Iterator[Any]:
        with _open(path) as raw:
            is_file = raw.read(len(_FILE_MARK)) == _FILE_MARK
            raw.seek(0)
            table = pyarrow.ipc.open_file(raw) if is_file else pyarrow.ipc.open_stream(raw)
            check_names(table.schema.names, path)
            names = table.schema.names
            chosen = _choose_columns(columns, beside, names, path) if columns else names
            read = (table.get_batch(n) for n in range(table.num_record_batches)) if is_file else table
            for batch in read:
                batch.validate(full=True)  # what is damaged could otherwise be read from anywhere in memory
                selected = batch.select(chosen)
                for start in range(0, len(selected), _ROWS_AT_ONCE):
                    yield selected.slice(start, _ROWS_AT_ONCE)

    return _read_batches(batches(), path, is_chosen=bool(columns))


def _open(path: PurePath) -> Any:
    """The file as pyarrow reads it best."""
    import pyarrow

    return open_raw(path) if isinstance(path, RemotePath) else pyarrow.OSFile(str(path))


def _import_pyarrow(path: PurePath) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise ValueError(f"{path} needs pyarrow to be read; pip install 'flaxmill[tasks]'") from None
    return pyarrow


def _choose_columns(
    columns: Sequence[str], beside: Mapping[str, Sequence[str]], names: list[str], path: PurePath
) -> list[str]:
    if found := next((column for column in columns if column in names), None):
        return [found, *(name for name in beside.get(found, ()) if name in names)]
    raise unknown_column(columns[0], names, str(path))


def _read_batches(batches: Iterator[Any], path: PurePath, is_chosen: bool) -> Iterator[Row]:
    number = 0
    with _arrow_errors(path) as place:
        for batch in batches:
            for values in _rows(batch, is_chosen):
                number += 1
                place[0] = number + 1
                yield Row(values, f"row {number}", str(path))


@contextmanager
def _arrow_errors(path: PurePath) -> Iterator[list[int]]:
    """Turns pyarrow's errors into a line that names the row, which is kept in the list that it gives."""
    import pyarrow

    place = [1]
    # Strings that are not UTF-8, and dates that Python has no value for, raise errors of other kinds; a
    # damaged length asks for more memory than there is.
    kinds = (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError)
    try:
        yield place
    except kinds as error:
        reason = " ".join(str(error).split())[:200]
        raise unreadable(f"row {place[0]} of {path}", reason or type(error).__name__) from None


def _rows(batch: Any, is_chosen: bool) -> Iterator[dict[str, Any]]:
    if not is_chosen or len(batch.schema.names) > 1:
        yield from batch.to_pylist()
        return
    (values,), (column,) = batch.columns, batch.schema.names
    if not _holds_integers(values.type):
        yield from ({column: value} for value in values.to_pylist())
        return
    for value in values:
        items = value.values
        has_gap = items is not None and items.null_count
        yield {column: value.as_py() if items is None or has_gap else items.to_numpy()}


def _holds_integers(kind: Any) -> bool:
    """Whether it is the type of lists of integers, as rows of token ids are."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_integer(kind.value_type)

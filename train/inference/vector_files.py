"""Vectors of texts as files: .npy, or .parquet with the texts beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxmill.data.whole_files import write_whole

SUFFIXES = (".npy", ".parquet")


def check_vector_file(path: Path) -> None:
    """Raises ValueError for another suffix, or for .parquet where pyarrow is not installed."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output={path}: suffix {path.suffix!r} is not written; use {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(
                f"output={path} needs pyarrow; pip install 'flaxmill[tasks]', or write a .npy"
            ) from None


def write_vectors(path: Path, vectors_NE: np.ndarray, texts: Sequence[str]) -> None:
    """Write the vectors, whole or not at all, in the order of the texts.

    A .npy holds float32 [N,E]. A .parquet has the columns `text` and `embedding`, a list of E float32 values.
    """
    if path.suffix.lower() == ".npy":
        write_whole(path, lambda partial: _write_array(partial, vectors_NE))
    else:
        write_whole(path, lambda partial: _write_table(partial, vectors_NE, texts))


def _write_array(partial: Path, vectors_NE: np.ndarray) -> None:
    with partial.open("wb") as file:
        np.save(file, vectors_NE, allow_pickle=False)


def _write_table(partial: Path, vectors_NE: np.ndarray, texts: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors_NE.ravel()), vectors_NE.shape[1])
    table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string()), "embedding": values})
    pyarrow.parquet.write_table(table, partial)

"""What a directory holds: its text files and tables, however deep, in order."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

from flaxmill.data.files.archives import format_suffix
from flaxmill.data.files.tables import TABLES
from flaxmill.data.messages import shorten

_TEXT_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc"}
CODE_SUFFIXES = {".py", ".c", ".h", ".cc", ".cpp", ".rs", ".go", ".java", ".js", ".ts", ".sh", ".sql"}
"""The suffixes of source code."""
_KNOWN = {*_TEXT_SUFFIXES, *CODE_SUFFIXES, *TABLES}
_MAX_SHOWN = 3


def find_in_directory(directory: Path, field: str, log: Callable[[str], None]) -> list[Path]:
    """Text files and tables below a directory, sorted, without hidden ones; what is skipped is logged.

    Raises ValueError, naming the field, where there is none.
    """
    try:
        found = list(_walk(str(directory), set()))
    except OSError as error:
        raise ValueError(f"{field} cannot be read ({error}); check its permissions") from None
    return choose_known(found, str(directory), field, log)


def choose_known(found: Sequence[PurePath], name: str, field: str, log: Callable[[str], None]) -> list:
    """The text files and tables among the files of a directory, here or in a remote store."""
    known = [path for path in found if format_suffix(path) in _KNOWN]
    kept = set(known)
    skipped = Counter(format_suffix(path) or "no suffix" for path in found if path not in kept)
    kinds = shorten([f"{count:,} with {suffix}" for suffix, count in skipped.most_common()], _MAX_SHOWN)
    if not known:
        raise ValueError(
            f"{field}={name!r} holds no text file and no table ({kinds or 'it is empty'}); give its files, "
            f"as in {name}/*.txt"
        )
    if skipped:
        log(f"{field}={name}: reading {len(known):,} files; {sum(skipped.values()):,} skipped ({kinds})")
    return known


def _walk(directory: str, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """All files that are not hidden, sorted; links to directories are followed, but in no circle."""
    stat = os.stat(directory)
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, seen)
        elif entry.is_file():
            yield Path(entry.path)

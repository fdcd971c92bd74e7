"""The corpus that every machine has: documentation and source code of the running Python."""

import functools
import os
import platform
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from flaxmill.data.config import EmbeddedText
from flaxmill.data.files.sources import InputSource, InputSources
from flaxmill.data.text.documents import Document, cut_text

# Tests, bundled applications and generated tables are either not what a reader calls code, or repetitive.
_LEFT_OUT = {
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "encodings"),
    *("pydoc_data", "site-packages", "dist-packages", "lib-dynload", "__pycache__"),
}
# CPython has about 9 MB; a distribution that adds its own modules must not slow the first start.
_MAX_SOURCE_BYTES = 12 * 1024 * 1024

# The first alternative is a string that is a whole statement, as docstrings are; the second
# steps over any other triple-quoted string, so that its closing quotes are not taken for an opening.
_TRIPLE_QUOTED = re.compile(
    r'^[ \t]*[rR]?("""|\'\'\')(.*?)\1[ \t]*\n|("""|\'\'\').*?\3', re.DOTALL | re.MULTILINE
)


def embedded_corpus(part: EmbeddedText) -> InputSources:
    """Prose (the language reference's topics, docstrings), code without docstrings, or both.

    Docstrings are taken out of the code, so that no held-out text is also in the training split.
    Raises ValueError where this Python has no sources.
    """
    files = find_sources()
    if not files:
        raise ValueError(
            f"data.files=() means the embedded corpus, but Python {platform.python_version()} at "
            f"{library_root()} has no library sources; give text with --data.files"
        )
    inventory: list[list] = [[platform.python_version(), part]]
    inventory += [[str(path.relative_to(library_root())), size] for path, size in files]
    num_bytes = sum(size for _, size in files)
    name = f"data.embedded={part}"
    return InputSources(
        name, (InputSource(name, inventory, num_bytes, name, lambda: iter(_documents(part))),)
    )


def library_root() -> Path:
    """The directory of the standard library's modules."""
    return Path(sysconfig.get_path("stdlib"))


def find_sources() -> list[tuple[Path, int]]:
    """(path, bytes) of the library's modules, in a fixed order."""
    found, total = [], 0
    for directory, subdirectories, names in os.walk(library_root()):
        subdirectories[:] = sorted(
            name for name in subdirectories if name not in _LEFT_OUT and not name.startswith("config-")
        )
        for name in sorted(name for name in names if name.endswith(".py")):
            path = Path(directory, name)
            total += (size := path.stat().st_size)
            if total > _MAX_SOURCE_BYTES:
                return found
            found.append((path, size))
    return found


@functools.cache
def _documents(part: EmbeddedText) -> tuple[Document, ...]:
    """All documents, kept since a cold start reads them for the tokenizer and again for the rows."""
    documents: list[Document] = []
    if part != "code":
        documents.extend(_topics())
    for path, _ in find_sources():
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if part != "code":
            prose = "\n\n".join(_docstrings(source))
            documents.extend(cut_text(prose, "prose"))
        if part != "prose":
            code = _TRIPLE_QUOTED.sub(lambda match: "" if match[1] else match[0], source)
            documents.extend(cut_text(code, "lines"))
    return tuple(documents)


def _docstrings(source: str) -> Iterator[str]:
    for match in _TRIPLE_QUOTED.finditer(source):
        if match[1] and (text := match[2].strip()):
            first, _, rest = text.partition("\n")
            yield f"{first}\n{textwrap.dedent(rest)}" if rest else first


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name in sorted(topics):
        yield from cut_text(topics[name], "prose")

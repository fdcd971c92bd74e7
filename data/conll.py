"""Tagged sentences in columns, as CoNLL's shared tasks publish them: a word a line, a blank line between."""

from collections.abc import Iterator
from pathlib import Path

from flaxmill.data.tables import Row, read_lines, unreadable

# A line of this word separates documents in CoNLL-2003 and belongs to no sentence.
_DOCUMENT_START = "-DOCSTART-"


def read_conll(path: Path, word_column: str, tag_column: str | None) -> Iterator[Row]:
    """Sentences as {word_column: list of words, tag_column: list of tags}.

    A line's columns are separated by tabs, or by blanks where it has no tab: the first is the word, the last
    the tag. Without a tag_column only words are read. Raises ValueError for a line that lacks its tag.
    """
    words, tags, first = [], [], 0
    sentence = 0
    for number, line in enumerate(read_lines(path), start=1):
        columns = _columns(line)
        if columns and columns[0] != _DOCUMENT_START:
            if tag_column is not None and len(columns) < 2:
                raise unreadable(f"line {number} of {path}", f"{columns[0]!r} has no tag beside it")
            first = first if words else number
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            sentence += 1
            yield _make_row(path, sentence, first, words, tags, word_column, tag_column)
            words, tags = [], []
    if words:
        yield _make_row(path, sentence + 1, first, words, tags, word_column, tag_column)


def _columns(line: str) -> list[str]:
    line = line.strip("\r\n ")
    return [column.strip() for column in line.split("\t")] if "\t" in line else line.split()


def _make_row(
    path: Path,
    sentence: int,
    line: int,
    words: list[str],
    tags: list[str],
    word_column: str,
    tag_column: str | None,
) -> Row:
    values = {word_column: words} | ({} if tag_column is None else {tag_column: tags})
    return Row(values, f"row {sentence} (line {line})", str(path))

"""Tagged sentences in columns, as in CoNLL's shared tasks: one word per line, blank lines between."""

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePath

from flaxmill.data.files.rows import BLANKS, Row, read_lines, unreadable

# A line with this word separates documents in CoNLL-2003 and belongs to no sentence.
_DOCUMENT_START = "-DOCSTART-"
# The first column of CoNLL-U's first sentence begins with these.
_NUMBERS = "123"
_COLUMN_GAP = re.compile(f"[{BLANKS}]+")


def read_conll(path: PurePath, word_column: str, tag_column: str | None) -> Iterator[Row]:
    """Sentences as {word_column: list of words, tag_column: list of tags}.

    A line's columns are separated by tabs, or by runs of blanks where it has no tab: the first is the word,
    the last the tag. A line that begins with # before a sentence's first word is a comment. Without a
    tag_column only words are read. Raises ValueError for a line that lacks its word or tag.
    """
    words, tags, first = [], [], 0
    sentence = 0
    for number, line in enumerate(read_lines(path), start=1):
        columns = _columns(line)
        if any(columns) and columns[0] != _DOCUMENT_START:
            if not words and _is_comment(line):
                continue
            _check_columns(columns, f"line {number} of {path}", tag_column is not None)
            first = first if words else number
            words.append(columns[0])
            tags.append(columns[-1])
            if not sentence and len(columns) > 2 and words == list(_NUMBERS):
                raise _numbered(path)
        elif words:
            sentence += 1
            yield _make_row(path, sentence, first, words, tags, word_column, tag_column)
            words, tags = [], []
    if words:
        yield _make_row(path, sentence + 1, first, words, tags, word_column, tag_column)


def _columns(line: str) -> list[str]:
    """Splits at ASCII separators: other white space, such as U+00A0 and U+3000, belongs to words."""
    line = line.rstrip("\r\n")
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return _COLUMN_GAP.split(line.strip(BLANKS))


def _is_comment(line: str) -> bool:
    """Whether a line before the first word of its sentence is a comment.

    Inside a sentence a # is a word, as https://github.com/mead-ml/mead-baseline/pull/408 concluded. Before
    the first word, a hashtag with a tag behind a tab is a word too: tweets begin with hashtags, and comments
    without a blank behind their # have no tab either.
    """
    is_hashtag = "\t" in line and line[1:2] not in ("#", " ", "\t")
    return line.startswith("#") and not is_hashtag


def _check_columns(columns: list[str], place: str, has_tag: bool) -> None:
    if not columns[0]:
        raise unreadable(place, "it has no word in its first column")
    if has_tag and (len(columns) < 2 or not columns[-1]):
        raise unreadable(place, f"{columns[0]!r} has no tag beside it")


def _numbered(path: PurePath) -> ValueError:
    source, target = (shlex.quote(str(name)) for name in (path, path.with_suffix(".words.conll")))
    return ValueError(
        f"{path} numbers the words in its first column, as CoNLL-U does, and they would be read as words; "
        f"leave that column out, for example with: cut -f 2- {source} > {target}"
    )


def _make_row(
    path: PurePath,
    sentence: int,
    line: int,
    words: list[str],
    tags: list[str],
    word_column: str,
    tag_column: str | None,
) -> Row:
    values = {word_column: words} | ({} if tag_column is None else {tag_column: tags})
    return Row(values, f"row {sentence} (line {line})", str(path))

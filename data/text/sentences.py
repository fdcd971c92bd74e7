"""Documents as sentences, by rules simple enough to state, or by a library that knows languages."""

import functools
import importlib.metadata
import re
from collections.abc import Callable

from flaxmill.data.config import SENTENCE_RULES
from flaxmill.data.text.documents import Document
from flaxmill.data.tokenizer.failures import is_panic

# A sentence of prose ends at . ! or ?, perhaps with a closing quote or bracket, before white space and a
# capital letter, digit or opening mark; a blank line or the next item of a list ends one as well.
_OPENING = r"\s+(?=[A-Z0-9\"'(\[`*])"
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_OPENING}|(?<=[.!?][\"')\]]){_OPENING}|\n\s*\n|\n\s*(?=[-*] )")
# sentencex 1.0 fails at ". X." before white space that takes several bytes, such as a no-break space.
_OTHER_BLANK = re.compile(r"[^\S\n]")


def split_sentences(document: Document, language: str = SENTENCE_RULES) -> list[str]:
    """The document's sentences, or its lines if it is code or has one sentence a line; none is blank.

    Args:
      language: the code of the language whose sentences the library knows, or "rules".
    """
    text = document.text
    if document.sentences == "lines":
        pieces = text.split("\n")
    elif language == SENTENCE_RULES:
        pieces = _SENTENCE_END.split(text)
    else:
        pieces = [piece.strip() for piece in _split_by_language(text, language)]
    return [piece for piece in pieces if piece.strip()]


def cut_at_sentences(
    document: Document, language: str = SENTENCE_RULES, *, keeps_blank: bool = True
) -> list[str]:
    """The document's text cut where a sentence ends; the pieces join to the text.

    Args:
      keeps_blank: False: leave out one blank before each sentence but the first.
    """
    text, ends, place = document.text, [], 0
    for sentence in split_sentences(document, language):
        place = text.index(sentence, place) + len(sentence)
        ends.append(place)
    ends[-1:] = [len(text)]
    pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return pieces if keeps_blank else [pieces[0], *(piece.removeprefix(" ") for piece in pieces[1:])]


def describe_splitter(language: str) -> str:
    """The language and the version of the library, since another version may split otherwise.

    Raises ValueError where the library is not installed.
    """
    find_library(language)
    return f"{language} by sentencex {importlib.metadata.version('sentencex')}"


@functools.cache
def find_library(language: str) -> Callable[[str, str], list[str]]:
    """sentencex's function, (language, text) -> pieces that join to the text.

    Raises ValueError where it is not installed.
    """
    try:
        from sentencex import segment  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(
            f"data.sentences={language!r} needs the library sentencex; install it with "
            "`pip install 'flaxmill[sentences]'`, or use data.sentences=rules"
        ) from None
    return segment


def _split_by_language(text: str, language: str) -> list[str]:
    try:
        pieces = find_library(language)(language, _OTHER_BLANK.sub(" ", text))
    except BaseException as error:
        if not is_panic(error):
            raise
        return _SENTENCE_END.split(text)
    found, start = [], 0
    for piece in pieces:
        found.append(text[start : start + len(piece)])
        start += len(piece)
    return found

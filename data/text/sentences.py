"""Documents as sentences, by rules simple enough to state."""

import re

from flaxmill.data.text.corpora import Document

# A sentence of prose ends at . ! or ?, perhaps with a closing quote or bracket, before white space and a
# capital letter, digit or opening mark; a blank line or the next item of a list ends one as well.
_OPENING = r"\s+(?=[A-Z0-9\"'(\[`*])"
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_OPENING}|(?<=[.!?][\"')\]]){_OPENING}|\n\s*\n|\n\s*(?=[-*] )")


def split_sentences(document: Document) -> list[str]:
    """The document's sentences, or its lines if it is code or has one sentence a line; none is blank."""
    if document.sentences == "lines":
        pieces = document.text.split("\n")
    else:
        pieces = _SENTENCE_END.split(document.text)
    return [piece for piece in pieces if piece.strip()]


def cut_at_sentences(document: Document, *, keeps_blank: bool = True) -> list[str]:
    """The document's text cut where a sentence ends; the pieces join to the text.

    Args:
      keeps_blank: False: leave out one blank before each sentence but the first.
    """
    text, ends, place = document.text, [], 0
    for sentence in split_sentences(document):
        place = text.index(sentence, place) + len(sentence)
        ends.append(place)
    ends[-1:] = [len(text)]
    pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return pieces if keeps_blank else [pieces[0], *(piece.removeprefix(" ") for piece in pieces[1:])]

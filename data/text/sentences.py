"""Documents as sentences, by rules simple enough to state."""

import re

from flaxmill.data.text.documents import Document

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

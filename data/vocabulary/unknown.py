"""How much of a text a tokenizer has no pieces for: a little is a warning, more than half an error."""

from collections.abc import Callable, Iterable

import numpy as np

from flaxmill.data.text.corpora import Document
from flaxmill.data.tokenization import Tokenizer

WARNING_SHARE = 0.01
"""Above this share of unknown pieces, a line says so."""
_ERROR_SHARE = 0.5
_LOOKED_AT = 100_000  # characters
_FIX = "train one on this text (`flaxmill tokenizer train`), or use bpe, which has every byte"


class UnknownCount:
    """Counts a text's pieces and those that are unknown; keeps a document that holds one."""

    def __init__(self):
        self.num_pieces = self.num_unknown = 0
        self.document: str | None = None

    def add(self, document: str, pieces: np.ndarray, unknown_id: int | None) -> None:
        """Counts a document's pieces, without the special tokens around them."""
        self.num_pieces += len(pieces)
        if unknown_id is not None and (num := int(np.count_nonzero(pieces == unknown_id))):
            self.num_unknown += num
            self.document = document if self.document is None else self.document

    def add_rows(
        self, texts: Iterable[str], tokens_BT: np.ndarray, lengths_B: np.ndarray, tokenizer: Tokenizer
    ) -> None:
        """Counts padded rows that were made of these texts."""
        is_real = np.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        self.num_pieces += int(is_real.sum())
        if tokenizer.unknown_id is None:
            return
        self.num_unknown += int((is_real & (tokens_BT == tokenizer.unknown_id)).sum())
        if self.num_unknown and self.document is None:
            self.document = next(
                (text for text in texts if tokenizer.unknown_id in tokenizer.encode(text)), None
            )

    @property
    def share(self) -> float:
        return self.num_unknown / max(self.num_pieces, 1)


def judge_unknown(count: UnknownCount, tokenizer: Tokenizer, name: str, log: Callable[[str], None]) -> None:
    """Logs a share of unknown pieces above WARNING_SHARE, with an example.

    Raises ValueError where it is more than half: a model would see hardly anything of the text.
    """
    if count.share <= WARNING_SHARE:
        return
    example = first_unknown(tokenizer, count.document) if count.document else ""
    such_as = f"such as {example!r:.60}, " if example else ""
    line = (
        f"{name}: the tokenizer has no piece for {count.share:.1%} of the text's, {such_as}and reads all as "
        f"one unknown token; {_FIX}"
    )
    if count.share > _ERROR_SHARE:
        raise ValueError(line)
    log(line)


def look_ahead(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, name: str, log: Callable[[str], None]
) -> None:
    """Logs that most pieces of the first documents are unknown, before hours go into all of them; only all
    tell whether that is an error."""
    if tokenizer.unknown_id is None:
        return
    count, size = UnknownCount(), 0
    for _, document in documents:
        pieces = tokenizer.encode(document.text)
        count.add(document.text, np.array(pieces, np.int64), tokenizer.unknown_id)
        size += len(document.text)
        if size > _LOOKED_AT:
            break
    if count.share > _ERROR_SHARE:
        log(
            f"{name}: {count.share:.1%} of the first {count.num_pieces:,} pieces are unknown to the tokenizer"
        )


def first_unknown(tokenizer: Tokenizer, document: str) -> str:
    """The first piece of the document's text that is unknown."""
    encoding = tokenizer.inner.encode(document, add_special_tokens=False)
    place = encoding.ids.index(tokenizer.unknown_id) if tokenizer.unknown_id in encoding.ids else 0
    start, end = encoding.offsets[place] if encoding.offsets else (0, 0)
    return document[start:end]

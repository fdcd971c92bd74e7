"""Tokenizers compared on the same documents: how long, how exact, how fast."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts
from flaxmill.data.vocabulary.unknown import UnknownCount

_CONTEXT = 20  # characters around a difference


class Measures(NamedTuple):
    """What a tokenizer makes of documents.

    tokens_per_word: fertility; words are between white space.
    unknown_share: share of the pieces that are unknown.
    exact_share: share of the documents that decoding gives back; first_difference: where one is not given
      back, [what was read, what is decoded].
    megabytes_per_second: of text, for each core that encodes.
    used_share: share of the vocabulary, special tokens apart, that occurs.
    """

    vocab_size: int
    num_documents: int
    num_bytes: int
    num_tokens: int
    tokens_per_word: float
    bytes_per_token: float
    unknown_share: float
    exact_share: float
    first_difference: tuple[str, str] | None
    megabytes_per_second: float
    used_share: float


def measure_tokenizer(tokenizer: Tokenizer, documents: Sequence[str]) -> tuple[Measures, UnknownCount]:
    """Encodes and decodes the documents. Raises ValueError for a text that the tokenizer fails at."""
    started = time.process_time()  # of all threads
    encoded = encode_texts(tokenizer.encode_batch, documents, lambda number: f"document {number}")
    seconds = time.process_time() - started
    unknown = UnknownCount()
    is_used = np.zeros(tokenizer.vocab_size, bool)
    num_exact, difference = 0, None
    for text, ids in zip(documents, encoded, strict=True):
        pieces = np.array(ids, np.int64)
        unknown.add(text, pieces, tokenizer.unknown_id)
        is_used[pieces] = True
        decoded = tokenizer.decode(ids, skip_specials=False)
        num_exact += decoded == text
        if decoded != text and difference is None:
            difference = _difference(text, decoded)
    is_used[list(tokenizer.special_ids)] = False
    num_bytes = sum(len(text.encode()) for text in documents)
    measures = Measures(
        vocab_size=tokenizer.vocab_size,
        num_documents=len(documents),
        num_bytes=num_bytes,
        num_tokens=unknown.num_pieces,
        tokens_per_word=unknown.num_pieces / max(sum(len(text.split()) for text in documents), 1),
        bytes_per_token=num_bytes / max(unknown.num_pieces, 1),
        unknown_share=unknown.share,
        exact_share=num_exact / max(len(documents), 1),
        first_difference=difference,
        megabytes_per_second=num_bytes / 1e6 / max(seconds, 1e-9),
        used_share=float(is_used.sum() / max(tokenizer.vocab_size - len(tokenizer.special_ids), 1)),
    )
    return measures, unknown


def _difference(text: str, decoded: str) -> tuple[str, str]:
    """Both texts around the first character in which they differ."""
    length = min(len(text), len(decoded))
    place = next((i for i in range(length) if text[i] != decoded[i]), length)
    start = max(0, place - _CONTEXT)
    return text[start : place + _CONTEXT], decoded[start : place + _CONTEXT]

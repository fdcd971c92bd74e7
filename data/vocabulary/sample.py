"""Draws documents for a vocabulary from a stream of any length, in bounded memory."""

import heapq
from collections.abc import Iterable

from flaxmill.data.draws import TOKENIZER_SAMPLE, uniform
from flaxmill.data.text.corpora import Document


def draw_documents(documents: Iterable[Document], num_bytes: int) -> list[Document]:
    """Documents with at most `num_bytes` of text together, in their order; at least one, if there is any.

    Each document has a draw by its number, and the smallest draws are taken: which they are depends neither
    on how much text follows nor on where a file ends.
    """
    heap: list[tuple[float, int, int, Document]] = []
    total = 0
    for number, document in enumerate(documents):
        draw = float(uniform(TOKENIZER_SAMPLE, number)[0])
        size = len(document.text.encode())
        heapq.heappush(heap, (-draw, number, size, document))
        total += size
        while total > num_bytes and len(heap) > 1:
            total -= heapq.heappop(heap)[2]
    return [document for _, _, _, document in sorted(heap, key=lambda item: item[1])]

"""Text for the benchmarks of preparation: the embedded corpus, its paragraphs in another order in each copy.

The first copy is Python's own documentation and source. In a further copy the paragraphs are shuffled, and
documents are cut anew, with lengths of an exponential distribution. If it is respelled, one word of twenty,
drawn by word and copy, has its letters in reverse: text goes on having words that were not seen before, as
real text does, and a tokenizer that remembers the words that it has split gains no more than it would there.
"""

import functools
import json
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.training import train

VOCAB_SIZE = 32_768
MEAN_CHARACTERS = 3000  # of a document, some 800 tokens
_WORD = re.compile(r"[A-Za-z]{5,}")


def make_documents(*, respelled: bool) -> Iterator[str]:
    """Documents without end."""
    paragraphs = [
        text for document in embedded_corpus("all").read() for text in document.text.split("\n\n") if text
    ]
    copy = 0
    while True:
        draw = random.Random(copy)
        document, length = [f"Copy {copy}."] if copy else [], draw.expovariate(1 / MEAN_CHARACTERS)
        for text in paragraphs:
            document.append(_respell(text, copy) if respelled and copy else text)
            length -= len(text)
            if length <= 0:
                yield "\n\n".join(document)
                document, length = [f"{copy}.{draw.random()}"], draw.expovariate(1 / MEAN_CHARACTERS)
        copy += 1
        draw.shuffle(paragraphs)


def _respell(text: str, copy: int) -> str:
    return _WORD.sub(lambda match: _word_of(match[0], copy), text)


@functools.lru_cache(1 << 17)
def _word_of(word: str, copy: int) -> str:
    return word[::-1] if zlib.crc32(f"{copy} {word}".encode()) % 20 == 0 else word


def write_jsonl(directory: Path, num_bytes: int, num_files: int, *, respelled: bool) -> list[Path]:
    """Files of this many bytes together, with the documents in the column `text`; kept if they are there."""
    paths = [directory / f"text-{number}-of-{num_files}.jsonl" for number in range(num_files)]
    if all(path.is_file() for path in paths) and sum(path.stat().st_size for path in paths) >= num_bytes:
        return paths
    directory.mkdir(parents=True, exist_ok=True)
    documents = make_documents(respelled=respelled)
    for path in paths:
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            while file.tell() < num_bytes / num_files:
                lines = (json.dumps({"text": next(documents)}) + "\n" for _ in range(1000))
                file.write("".join(lines))
        unfinished.rename(path)
    return paths


def keep_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of 32,768 entries, trained on the first copy and kept in the folder."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        texts = [document.text for document in embedded_corpus("all").read()]
        folder.mkdir(parents=True, exist_ok=True)
        Tokenizer(train("bpe", texts, VOCAB_SIZE, lowercase=False)).save(path)
    return path

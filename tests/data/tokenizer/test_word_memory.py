"""Words that are remembered have the ids that the tokenizers library gives them in their texts."""

import random

import numpy as np
import pytest
import tokenizers
from small_tokenizers import KINDS, draw_texts, ours
from tokenizers import AddedToken

from flaxmill.data.tokenizer import word_memory
from flaxmill.data.tokenizer.word_memory import WordMemory
from flaxmill.data.vocabulary.training import train

ODD = [
    *(
        "",
        " ",
        "\n\n",
        "It's  ODD:\t\tcafé, 日本語 & 1234567!\r\n",
        "\u0301acute first",
        "a\0b\x1cc",
        "naïve\xa0\u017f",
    ),
    *(
        "x" * 500,
        "Σίσυφος ΣΑΣ",
        "天气 很好。",
        "<|endoftext|> in a text [MASK]",
        "q\u0323\u0307 q\u0307\u0323",
    ),
]


def texts() -> list[str]:
    draw = random.Random(3)
    return [
        *ODD,
        *draw_texts(0),
        *("".join(draw.choices([*ODD, "the ", "\n", "'s "], k=9)) for _ in range(200)),
    ]


def assert_as_library(memory: WordMemory, inner: tokenizers.Tokenizer, given: list[str]) -> None:
    expected = inner.encode_batch_fast(given, add_special_tokens=False)
    for text, ids, encoding in zip(given, memory.encode(given), expected, strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == encoding.ids, ascii(text)


@pytest.fixture(scope="module")
def byte_level():
    inner = train("bpe", texts(), 400, lowercase=False)
    inner.encode_special_tokens = True
    return inner


def counted(memory: WordMemory) -> list[int]:
    """Has the memory count the texts of each question to the library."""
    counts: list[int] = []
    ask = memory._ask

    def count(asked: list[str]) -> list[bytes]:
        counts.append(len(asked))
        return ask(asked)

    memory._ask = count  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize("kind", [*KINDS, "wordpiece", "bpe", "unigram"])
def test_ids_are_those_of_the_library(kind):
    if kind in KINDS:
        inner = ours(kind).inner
    else:
        inner = train(kind, texts(), 1200, lowercase=kind == "wordpiece")
        inner.encode_special_tokens = True
    memory, given = WordMemory(inner), texts()
    for _ in range(2):  # the second time from the memory
        assert_as_library(memory, inner, given)


def test_a_word_is_asked_for_once(byte_level):
    memory = WordMemory(byte_level)
    counts = counted(memory)
    memory.encode(["one two three two"])
    memory.encode(["three two two", "one three"])
    # Without a blank before it, "three" is another word; so is " one".
    assert counts == [0, 3, 0, 1]


def test_tokens_that_were_added_are_found_wherever_they_are(byte_level):
    inner = tokenizers.Tokenizer.from_str(byte_level.to_str())
    inner.add_tokens([AddedToken("o t", special=False), AddedToken("é", special=False)])
    given = ["two texts, no token", "café", "<|endoftext|> or not"]
    for reads_markup in (False, True):
        inner.encode_special_tokens = not reads_markup
        memory = WordMemory(inner)
        assert_as_library(memory, inner, given)
        assert (inner.token_to_id("<|endoftext|>") in memory.encode(given)[2]) == reads_markup
        assert inner.token_to_id("o t") in memory.encode(given)[0]


def test_a_full_memory_forgets_the_oldest_words(byte_level, monkeypatch):
    monkeypatch.setattr(word_memory, "_MOST_WORDS", 50)
    memory = WordMemory(byte_level)
    counts = counted(memory)
    for number in range(30):
        assert_as_library(
            memory, byte_level, [f"often {' '.join(map(chr, range(97, 97 + number % 26)))} w{number}"]
        )
        assert len(memory._recent) + len(memory._earlier) < 50 + 2 * 30
    num_asked = sum(counts)
    memory.encode(["often"])
    assert sum(counts) == num_asked  # a word that returns is kept


def test_long_words_fill_the_memory_too(byte_level, monkeypatch):
    monkeypatch.setattr(word_memory, "_MOST_CHARACTERS", 1000)
    memory = WordMemory(byte_level)
    for letter in "abcdefgh":
        assert_as_library(memory, byte_level, [letter * 600])
    assert len(memory._recent) + len(memory._earlier) <= 3


def test_texts_of_new_words_go_to_the_library_for_a_while(byte_level, monkeypatch):
    monkeypatch.setattr(word_memory, "_NEW_AT_FIRST", 20)
    monkeypatch.setattr(word_memory, "_RESTING_BATCHES", 2)
    memory = WordMemory(byte_level)
    counts = counted(memory)
    given = " ".join(f"w{chr(0x4E00 + number)}" for number in range(40))
    for _ in range(4):
        assert_as_library(memory, byte_level, [given])
    # No text and 40 words; the text itself, twice; no text and no word.
    assert counts == [0, 40, 1, 1, 0, 0]


def test_what_the_library_fails_at_is_not_remembered(byte_level):
    memory = WordMemory(byte_level)
    for _ in range(2):
        with pytest.raises(TypeError, match="TextEncodeInput"):
            memory.encode(["whole", "\ud800"])
    assert_as_library(memory, byte_level, ["whole"])

"""Texts are cut into words exactly as the tokenizers library cuts them, or not at all."""

import random
import sys
import unicodedata

import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from flaxmill.data.tokenizer import words
from flaxmill.data.tokenizer.words import find_cut

GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = {"gpt2": None, "gpt4": GPT_4, "qwen": GPT_4.replace("{1,3}", "")}
# What the patterns tell apart, and what only looks like it.
PIECES = [
    *("a", "word", "X", "é", "日本", "\u017f", "\ufb06", "\u212a", "1", "123", "\uff14", "\u2167", "²", "½"),
    *(
        "'",
        "\u2019",
        "!",
        "...",
        "_",
        "'s",
        "'S",
        "'\u017f",
        "'re",
        "'LL",
        "'t",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
    ),
    *("\v", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\u200b", "\u0301", "\u180e", "😀", "\U0001d49c"),
    *("\U000104a0", "\0", "\x7f", "<|endoftext|>"),
]


def byte_level(split: str | None = None) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split is not None:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), plain])
    return inner


def library_words(inner: tokenizers.Tokenizer, text: str) -> list[str]:
    assert inner.pre_tokenizer is not None
    return [text[start:end] for _, (start, end) in inner.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_library(kind):
    inner, draw, num_cut = byte_level(KINDS[kind]), random.Random(0), 0
    cut = find_cut(inner)
    assert cut is not None
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        if (found := cut(text)) is not None:
            num_cut += 1
            assert found == library_words(inner, text), ascii(text)
    assert num_cut > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_alone_is_one_word(kind):
    inner, draw = byte_level(KINDS[kind]), random.Random(1)
    for _ in range(2000):
        for word in library_words(inner, "".join(draw.choices(PIECES, k=draw.randrange(12)))):
            assert library_words(inner, word) == [word]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "gpt4"])
def test_every_character_is_cut_as_the_library_cuts_it_or_left_to_it(kind):
    inner = byte_level(KINDS[kind])
    cut = find_cut(inner)
    assert cut is not None
    num_left = 0
    for start in range(0, sys.maxunicode, 64):
        characters = [chr(code) for code in range(start, start + 64)]
        texts = [
            f"x{each}y 7{each}8 .{each}, {each}" for each in characters if not 0xD800 <= ord(each) < 0xE000
        ]
        for text in texts[:: 1 if start < 0x3000 else 32]:
            found = cut(text)
            num_left += found is None
            assert found is None or found == library_words(inner, text), ascii(text)
    assert (
        num_left < 10_000
    )  # letters beyond the basic plane, and what is newer than one Unicode or the other


def test_half_a_character_is_left_to_the_library():
    cut = find_cut(byte_level())
    assert cut is not None
    assert cut("é") == ["é"]
    assert cut("\ud800 and é") is None


def test_a_character_that_python_classes_otherwise_is_left_to_the_library(monkeypatch):
    category = unicodedata.category

    def older(character):
        return "Cn" if character == "é" else category(character)

    words._wide_classes.cache_clear()
    monkeypatch.setattr(words.unicodedata, "category", older)
    cut = find_cut(byte_level())
    assert cut is not None
    assert cut("Café au lait") is None
    assert cut("Caf\xe8 au lait") == ["Cafè", " au", " lait"]
    words._wide_classes.cache_clear()


def test_a_library_that_cuts_ascii_otherwise_cuts_alone(monkeypatch):
    assert find_cut(byte_level()) is not None
    monkeypatch.setattr(words, "_GPT_2", words._GPT_2.replace("|ll", ""))
    assert find_cut(byte_level()) is None


def test_nfc_leaves_only_ascii_to_be_cut_here():
    inner = byte_level()
    inner.normalizer = normalizers.NFC()  # type: ignore[abstract]
    cut = find_cut(inner)
    assert cut is not None
    assert cut("It's a test") == ["It", "'s", " a", " test"]
    assert cut("Cafe\u0301") is None


def with_prefix_space(inner):
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def with_dropout(inner):
    inner.model = models.BPE({"a": 0}, [], dropout=0.5)


def with_lowercase(inner):
    inner.normalizer = normalizers.Lowercase()


def with_unigram(inner):
    inner.model = models.Unigram([("a", 0.0)], unk_id=0)


def with_no_words(inner):
    inner.pre_tokenizer = None


def with_other_pattern(inner):
    inner.pre_tokenizer = byte_level(r"\p{L}+|\s+").pre_tokenizer


@pytest.mark.parametrize(
    "change",
    [with_prefix_space, with_dropout, with_lowercase, with_unigram, with_no_words, with_other_pattern],
)
def test_other_tokenizers_are_not_cut(change):
    inner = byte_level()
    change(inner)
    assert find_cut(inner) is None

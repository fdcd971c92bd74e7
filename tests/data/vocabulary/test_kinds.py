"""Trained tokenizers give back any text, or say which text they cannot hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.kinds import UNIGRAM_SPECIALS, train_byte_level, train_unigram, train_wordpiece

TEXTS = ["The river runs to the sea, and the sea is wide.\n    def f(x):\n        return x + 1\n"] * 20
UNIGRAM = Tokenizer(train_unigram(TEXTS, 340))


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "▁" not in text))
def test_unigram_gives_back_every_text(text):
    ids = UNIGRAM.encode(text)
    assert UNIGRAM.decode(ids, skip_specials=False) == text
    assert not set(ids) & UNIGRAM.special_ids


@pytest.mark.parametrize("text", [*UNIGRAM_SPECIALS, "<0x41>", " <0x0A> ", "a</s>b"])
def test_unigram_reads_spellings_of_specials_and_bytes_as_text(text):
    ids = UNIGRAM.encode(text)
    assert not set(ids) & UNIGRAM.special_ids
    assert UNIGRAM.decode(ids) == text


def test_unigram_has_the_roles_of_causal_masked_and_paired_rows():
    names = {role: UNIGRAM.inner.id_to_token(id_) for role, id_ in UNIGRAM.roles.items()}
    assert names == {
        **{"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>", "mask": "<mask>"},
        **{"cls": "<s>", "sep": "</s>"},
    }


def test_an_alphabet_that_does_not_fit_is_refused_with_the_size_that_would_do():
    texts = ["".join(chr(0x4E00 + number) for number in range(200))] * 3
    with pytest.raises(ValueError, match=r"vocabulary of 400 .* 200 characters .* use 461 or more"):
        train_unigram(texts, 400)
    assert train_unigram(texts, 461).get_vocab_size() == 461


def test_text_without_a_character_makes_a_vocabulary_of_bytes():
    assert Tokenizer(train_unigram([], 400)).encode("a") == [5 + ord("a")]


@pytest.mark.parametrize("train", [train_byte_level, train_unigram])
def test_lower_cased_kinds_read_capitals_as_small_letters(train):
    tokenizer = Tokenizer(train(TEXTS, 340, True))
    assert tokenizer.encode("THE Sea") == tokenizer.encode("the sea")
    assert Tokenizer(train(TEXTS, 340)).encode("THE Sea") != tokenizer.encode("the sea")


def test_a_cased_wordpiece_keeps_capitals_and_accents():
    texts = ["The Bär runs. The bar is shut."] * 20
    cased, uncased = (Tokenizer(train_wordpiece(texts, 200, lowercase)) for lowercase in (False, True))
    assert cased.decode(cased.encode("The Bär")) == "The Bär"
    assert uncased.decode(uncased.encode("The Bär")) == "the bar"

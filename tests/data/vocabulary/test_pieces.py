"""Pieces are spelled so that the bytes of a character stay together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.kinds import train_byte_level, train_unigram, train_wordpiece
from flaxmill.data.vocabulary.pieces import cut_words, spell_piece, spell_runs

BYTES = Tokenizer(train_byte_level([], 258))
UNIGRAM = Tokenizer(train_unigram(["a b c"], 400))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20).filter(lambda text: "\ufffd" not in text and "▁" not in text))
@pytest.mark.parametrize("tokenizer", [BYTES, UNIGRAM], ids=["bytes", "unigram"])
def test_runs_cover_the_tokens_and_spell_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    runs = spell_runs(tokenizer, ids)
    assert "".join(run.text for run in runs) == text
    assert [place for run in runs for place in range(run.start, run.end)] == list(range(len(ids)))
    assert len(runs) == len(text)  # each of these vocabularies has whole characters or bytes


def test_a_torn_character_is_shown_as_torn_and_what_follows_as_it_is():
    ids = [*BYTES.encode("東")[:2], *BYTES.encode("ab"), BYTES.mask_id, *BYTES.encode("é")]
    texts = [run.text for run in spell_runs(BYTES, [id_ for id_ in ids if id_ is not None])]
    assert texts == ["<E6>", "<9D>", "a", "b", "<|mask|>", "é"]


def test_words_are_joined_as_decoding_joins_them():
    tokenizer = Tokenizer(train_wordpiece(["the river runs, and runs"] * 20, 200))
    ids = tokenizer.encode("the rivers, and")
    assert [run.text for run in spell_runs(tokenizer, ids)] == ["the", " river", "s", ",", " and"]
    assert "".join(run.text for run in spell_runs(tokenizer, ids)) == tokenizer.decode(ids)


def test_bytes_of_a_piece_are_text_where_they_are_whole_characters():
    assert [spell_piece(BYTES, BYTES.inner.id_to_token(id_) or "") for id_ in BYTES.encode("a é")] == [
        *("a", " ", "<C3>", "<A9>")
    ]
    assert spell_piece(BYTES, "ĠcafÃ©") == " café"
    assert spell_piece(BYTES, "<|mask|>") == "<|mask|>"


def test_a_word_has_its_pieces_and_their_ids():
    tokenizer = Tokenizer(train_wordpiece(["the river runs"] * 20, 200))
    words = cut_words(tokenizer, "The rivers")
    assert [word.text for word in words] == ["The", "rivers"]
    assert words[1].pieces == ("river", "##s")
    assert [id_ for word in words for id_ in word.ids] == tokenizer.encode("The rivers")
    assert cut_words(tokenizer, "") == []

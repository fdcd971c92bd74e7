"""Measures of a tokenizer are the counts that they claim to be."""

import pytest

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.kinds import train_byte_level, train_wordpiece
from flaxmill.data.vocabulary.measuring import measure_tokenizer

BYTES = Tokenizer(train_byte_level([], 258))


def test_bytes_are_one_token_each_and_exact():
    measures, unknown = measure_tokenizer(BYTES, ["ab cd", "é x"])
    assert measures.num_tokens == measures.num_bytes == 9
    assert measures.bytes_per_token == 1.0
    assert measures.tokens_per_word == 9 / 4
    assert (measures.exact_share, measures.first_difference) == (1.0, None)
    assert measures.used_share == len({*"ab cdx", 1, 2}) / 256  # é has two bytes
    assert (measures.unknown_share, unknown.num_unknown) == (0.0, 0)
    assert measures.megabytes_per_second > 0


def test_what_is_lost_is_counted_and_shown():
    tokenizer = Tokenizer(train_wordpiece(["the river"] * 20, 200))
    measures, unknown = measure_tokenizer(tokenizer, ["the river", "The river 東", "the  river"])
    assert measures.exact_share == pytest.approx(1 / 3)
    assert measures.first_difference == ("The river 東", "the river [UNK]")
    assert measures.unknown_share == pytest.approx(1 / 7)
    assert unknown.document == "The river 東"

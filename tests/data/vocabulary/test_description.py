"""A description names what a tokenizer has and which objectives it serves."""

import pytest
from small_tokenizers import KINDS, ours

from flaxmill.data.config import DataConfig
from flaxmill.data.objectives import OBJECTIVE_DATA
from flaxmill.data.special_tokens import lacking_tokens
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.description import (
    describe_pieces,
    describe_tokenizer,
    format_description,
    format_pieces,
)
from flaxmill.data.vocabulary.kinds import train_byte_level, train_unigram


@pytest.mark.parametrize("kind", KINDS)
def test_every_role_and_objective_is_described(kind):
    tokenizer = ours(kind)
    described = describe_tokenizer(tokenizer)
    roles = {role: token["id"] for token in described["special_tokens"] for role in token["roles"]}
    assert roles == tokenizer.roles
    assert described["objectives"] == {
        name: lacking_tokens(tokenizer, name, DataConfig()) for name in OBJECTIVE_DATA
    }
    lines = format_description(described)
    assert any(line.split()[:2] == ["causal", "yes"] for line in lines)


@pytest.mark.parametrize(
    ("kind", "name", "template"),
    [
        ("bert", "WordPiece", "[CLS] TEXT [SEP]"),
        ("gpt2", "byte-level BPE", "none"),
        ("t5", "Unigram", "TEXT </s>"),
    ],
)
def test_kind_and_template_are_named(kind, name, template):
    lines = format_description(describe_tokenizer(ours(kind)))
    assert f"kind         {name}" in lines
    assert f"template     {template}" in lines


def test_an_objective_that_is_not_served_says_why():
    lines = format_description(describe_tokenizer(Tokenizer(train_byte_level([], 258))))
    assert "  mlm_nsp                no: it lacks [CLS], [SEP]" in lines
    unigram = describe_tokenizer(Tokenizer(train_unigram(["a b"], 400)))
    assert unigram["kind"] == "Unigram with bytes for unknown characters"
    assert unigram["objectives"]["span_corruption"] == ["<extra_id_0>"]


def test_pieces_of_a_word_share_a_line():
    tokenizer = Tokenizer(train_byte_level([], 258))
    pieces = describe_pieces(tokenizer, "a é")
    lines = format_pieces(tokenizer, pieces)
    (a,), (blank, first, second) = (word["ids"] for word in pieces)
    assert lines == [f"'a'   a {a}", f"' é'    {blank} <C3> {first} <A9> {second}"]

"""Tokens as the harness asks for them: framed as in training, and not twice."""

import pytest
import small_tokenizers
from random_models import causal_directory

from flaxmill.model import ModelConfig
from flaxmill.train.harness.language_model import check_answers, encode_text, first_token
from flaxmill.train.inference.text_model import load_text_model


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_are_those_of_transformers(kind):
    model, theirs = load_text_model(causal_directory(kind)), small_tokenizers.theirs(kind)
    for text in [*small_tokenizers.draw_texts(1, num=5), "a", " two  blanks"]:
        assert encode_text(model, text) == theirs.encode(text)
        assert encode_text(model, text, with_specials=False) == theirs.encode(text, add_special_tokens=False)


def test_a_text_that_spells_its_beginning_gets_none_before_it():
    model = load_text_model(causal_directory("llama"))
    begin = first_token(model)
    assert encode_text(model, "a cat")[0] == begin
    spelled = encode_text(model, f"{small_tokenizers.theirs('llama').bos_token}a cat")
    assert spelled[0] == begin
    assert spelled.count(begin) == 1


def test_the_first_token_is_what_begins_or_else_ends_a_text():
    for kind in ("gpt2", "llama"):
        theirs = small_tokenizers.theirs(kind)
        expected = theirs.eos_token_id if theirs.bos_token_id is None else theirs.bos_token_id
        assert first_token(load_text_model(causal_directory(kind))) == expected


def test_a_tokenizer_without_either_is_refused():
    model = load_text_model(causal_directory())
    model.tokenizer.roles, model.tokenizer.end_id = {}, None
    with pytest.raises(ValueError, match=r"^the tokenizer has no token that begins or ends a text"):
        first_token(model)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config": ModelConfig(vocab_size=9, head="mlm")}, r"^model\.head=mlm predicts no next token"),
        ({"continues": False}, r"^runs/x answers texts of another form than it reads"),
    ],
)
def test_models_that_do_not_continue_texts_are_refused(changes, line):
    model = load_text_model(causal_directory())._replace(**changes)
    with pytest.raises(ValueError, match=line):
        check_answers(model, "runs/x")

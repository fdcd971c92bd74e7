"""A tokenizer's own chat template is followed, else ChatML."""

import json

import pytest
from chats import CONVERSATION, HEADERS, MARKED, write_tokenizer

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.chatml import CHATML, ChatML
from flaxmill.data.conversations.rendering import (
    find_turn_end,
    load_chat,
    make_chat,
    make_question_reader,
    with_chat_template,
)
from flaxmill.data.tokenization import Tokenizer


def load(directory, *template, **settings):
    return Tokenizer.load(write_tokenizer(directory, *template, **settings))


def test_a_template_beside_the_settings_goes_before_theirs(tmp_path):
    write_tokenizer(tmp_path, MARKED)
    (tmp_path / "chat_template.jinja").write_text(HEADERS)
    assert Tokenizer.load(tmp_path).chat_template == HEADERS


def test_the_default_of_several_templates_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": MARKED}, {"name": "default", "template": HEADERS}]
    assert load(tmp_path, named).chat_template == HEADERS
    assert load(tmp_path, named[:1]).chat_template is None


def test_a_tokenizer_without_a_template_writes_chatml(tmp_path):
    tokenizer = load(tmp_path)
    assert isinstance(make_chat(tokenizer), ChatML)
    assert isinstance(load_chat(DataConfig(tokenizer="bpe")), ChatML)
    assert make_chat(tokenizer).render(CONVERSATION) == ChatML().render(CONVERSATION)


def test_the_form_that_was_used_is_kept_with_the_tokenizer(tmp_path):
    tokenizer = with_chat_template(load(tmp_path / "a"))
    tokenizer.save_settings(tmp_path / "settings.json")
    assert json.loads((tmp_path / "settings.json").read_text())["chat_template"] == CHATML
    own = load(tmp_path / "b", HEADERS)
    assert with_chat_template(own) is own


@pytest.mark.parametrize(
    ("template", "end"), [(None, "<|im_end|>"), (HEADERS, "<|eot|>"), (MARKED, "<|im_end|>")]
)
def test_the_token_that_ends_a_turn_is_found(template, end, tmp_path):
    tokenizer = load(tmp_path, template)
    assert find_turn_end(tokenizer) == tokenizer.inner.token_to_id(end)


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content }}{{ messages[1].content }}", "{{ raise_exception('no') }}"]
)
def test_a_turn_may_end_without_a_token(template, tmp_path):
    assert find_turn_end(load(tmp_path, template)) is None


def test_a_question_is_a_user_turn_up_to_the_answer(tmp_path):
    tokenizer = load(tmp_path, HEADERS)
    text = "<s><|header|>user<|header|>\n\nHi<|eot|><|header|>assistant<|header|>\n\n"
    assert make_question_reader(tokenizer)("Hi") == tokenizer.encode(text, markup=True)


def test_a_template_that_cannot_be_read_is_named(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template.jinja cannot be read .* restore or delete it"):
        Tokenizer.load(tmp_path)

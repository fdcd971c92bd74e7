"""Chat templates are rendered as transformers renders them, and the assistant's turns are found."""

import builtins
import functools

import pytest
from chats import (
    CONVERSATION,
    HEADERS,
    INSTRUCTIONS,
    MARKED,
    SPECIALS,
    THOUGHTS,
    WITHOUT_SYSTEM,
    write_tokenizer,
)

from flaxmill.data.conversations import chat_template
from flaxmill.data.conversations.chat_template import ChatTemplate
from flaxmill.data.conversations.chatml import CHATML
from flaxmill.data.conversations.encoding import encode_conversation
from flaxmill.data.conversations.rendering import make_chat
from flaxmill.data.tokenization import Tokenizer

TEMPLATES = {
    "chatml": (CHATML, CONVERSATION),
    "headers": (HEADERS, CONVERSATION),
    "instructions": (INSTRUCTIONS, WITHOUT_SYSTEM),
    "marked": (MARKED, CONVERSATION),
    "thoughts": (THOUGHTS, CONVERSATION),
}


def make(source):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, SPECIALS)


def targets_of(source, conversation):
    text, targets = make(source).render(conversation)
    return [text[start:end] for start, end in targets]


@functools.cache
def theirs(directory):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_tokens_are_those_of_transformers(name, tmp_path):
    source, conversation = TEMPLATES[name]
    their = theirs(write_tokenizer(tmp_path, source))
    tokenizer = Tokenizer.load(tmp_path)
    chat = make_chat(tokenizer)
    rendered = chat.render(conversation)
    assert rendered.text == their.apply_chat_template(conversation, tokenize=False)
    ids = their.apply_chat_template(conversation, return_dict=True)["input_ids"]
    assert encode_conversation(rendered, tokenizer)[0].tolist() == ids
    question = conversation[:-1]
    opened = their.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert chat.open_answer(question) == opened


def test_marked_turns_are_the_tokens_that_transformers_marks(tmp_path):
    their = theirs(write_tokenizer(tmp_path, MARKED))
    tokenizer = Tokenizer.load(tmp_path)
    found = their.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    _, is_target = encode_conversation(make_chat(tokenizer).render(CONVERSATION), tokenizer)
    assert is_target.tolist() == [bool(bit) for bit in found["assistant_masks"]]
    assert 0 < is_target.sum() < len(is_target)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", ["4<|im_end|>", "  A feeling: it is “known”. 今日は\n\n<|im_end|>"]),
        ("headers", ["4<|eot|>", "A feeling: it is “known”. 今日は<|eot|>"]),
        ("instructions", [" 4 </s>", " A feeling: it is “known”. 今日は </s>"]),
        ("marked", ["4<|im_end|>", "  A feeling: it is “known”. 今日は\n\n<|im_end|>"]),
        # What a model is to write begins behind what it is given, whatever the template puts there.
        (
            "thoughts",
            ["4<|im_end|>", "<think>\n\n</think>\n\n  A feeling: it is “known”. 今日は\n\n<|im_end|>"],
        ),
    ],
)
def test_targets_are_what_the_assistant_wrote_and_the_end_of_its_turn(name, expected):
    assert targets_of(*TEMPLATES[name]) == expected


def test_contents_that_a_template_changes_are_found():
    conversation = [message | {} for message in CONVERSATION]
    conversation[2]["content"] = "<think>\nSums.\n</think>\n\n4"
    conversation[4]["content"] = "<think>Hm</think>A feeling"
    assert targets_of(THOUGHTS, conversation) == ["4<|im_end|>", "<think>Hm</think>A feeling<|im_end|>"]


def test_a_turn_that_others_repeat_is_found_at_its_place():
    conversation = [{"role": role, "content": "Yes"} for role in ("user", "assistant", "user", "assistant")]
    text, targets = make(CHATML).render(conversation)
    assert [text[:start].count("<|im_start|>") for start, _ in targets] == [2, 4]
    assert [text[start:end] for start, end in targets] == ["Yes<|im_end|>"] * 2


def test_a_turn_that_the_template_leaves_out_has_no_target():
    last_two = "{% for m in messages[-2:] %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    assert targets_of(last_two, CONVERSATION) == [CONVERSATION[4]["content"] + "</s>"]


def test_a_turn_without_a_token_that_ends_it_is_its_content():
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert targets_of(plain, CONVERSATION)[0] == "4"


def test_equal_conversations_give_equal_rows_on_any_day():
    assert make("{{ strftime_now('%d %b %Y') }}").render(CONVERSATION).text == "26 Jul 2024"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (INSTRUCTIONS, r"the chat template refuses it \(Conversation roles must alternate user/assistant"),
        ("{{ ''.__class__.__mro__ }}", "the chat template refuses it .*unsafe"),
        ("{{ messages.append(1) }}", "the chat template refuses it .*unsafe"),
        ("{% for n in range(10 ** 9) %}a{% endfor %}", "the chat template refuses it .*Range too big"),
        ("{{ 1 / 0 }}", r"the chat template refuses it \(division by zero\)"),
        ("{{ messages[0].content + 1 }}", "the chat template refuses it "),
    ],
)
def test_what_a_template_refuses_or_fails_at_is_one_line(source, message):
    with pytest.raises(ValueError, match=message) as raised:
        make(source).render(CONVERSATION)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["{% for %}", "{% generation %}", "{{ x | nofilter }}", "{{" * 3])
def test_what_is_no_template_is_refused_before_it_is_used(source):
    with pytest.raises(ValueError, match="the tokenizer's chat template is not one"):
        make(source)


def test_a_template_without_jinja_names_the_command_that_installs_it(monkeypatch):
    own_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "jinja2":
            raise ImportError(name)
        return own_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    chat_template._compile.cache_clear()
    with pytest.raises(ValueError, match=r"needs jinja2 to be read; pip install 'flaxmill\[chat\]'"):
        make("{{ messages }}")

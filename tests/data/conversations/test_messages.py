"""The messages of a row are read in both forms, and what is no conversation is named in one line."""

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.messages import COLUMNS, message_columns, read_messages
from flaxmill.data.files.rows import Row

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def read(values, columns=COLUMNS):
    return read_messages(Row(values, "row 3", "a.jsonl"), columns)


def test_both_forms_give_the_same_messages():
    shared = [
        {"from": "system", "value": "S"},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
    ]
    expected = [{"role": "system", "content": "S"}, USER, ASSISTANT]
    assert read({"conversations": shared}) == read({"messages": expected}) == expected


def test_a_list_for_each_key_is_a_list_of_messages():
    assert read({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}) == [
        USER,
        ASSISTANT,
    ]


def test_alpacas_columns_are_a_conversation():
    question = {"role": "user", "content": "Sort these.\nb, a"}
    answer = {"role": "assistant", "content": "a, b"}
    row = {"instruction": "Sort these.", "input": "b, a", "output": "a, b", "text": "Below is ..."}
    assert read(row) == [question, answer]
    assert read(row | {"system": "S"}) == [{"role": "system", "content": "S"}, question, answer]
    for nothing in ("", None, float("nan")):
        assert read(row | {"input": nothing, "system": nothing})[0] == question | {"content": "Sort these."}
    assert read({"instruction": [USER, ASSISTANT]}, ("instruction",)) == [USER, ASSISTANT]


def test_what_else_a_message_holds_is_kept_but_nulls_are_not():
    named = USER | {"name": "ann", "tool_calls": None, "weight": None}
    assert read({"messages": [named, ASSISTANT]})[0] == USER | {"name": "ann"}


def test_the_column_is_the_named_one_or_one_of_the_usual():
    assert message_columns(DataConfig()) == ("messages", "conversations", "instruction")
    assert message_columns(DataConfig(text_column="chat")) == ("chat",)
    assert read({"conversations": "no list", "messages": [ASSISTANT]}) == [ASSISTANT]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"text": "a", "message": []},
            "row 3 of a.jsonl has no column .* it has text, message; did you mean message?",
        ),
        (
            {},
            "row 3 of a.jsonl has no column 'messages', 'conversations' or 'instruction'; it has none; name",
        ),
        (
            {"messages": "Hi"},
            "row 3 of a.jsonl: 'messages' holds 'Hi', which is not a list of messages; give",
        ),
        (
            {"messages": None},
            "row 3 of a.jsonl: 'messages' holds None, which is not a list of messages; give",
        ),
        ({"messages": {"role": ["user"], "content": []}}, "which is not a list of messages; give"),
        ({"messages": ["Hi"]}, "message 1 of row 3 of a.jsonl is 'Hi', which has no role; give"),
        (
            {"messages": [USER, {"content": "x"}]},
            "message 2 of row 3 of a.jsonl is .* which has no role; give",
        ),
        (
            {"messages": [USER, {"role": "asistant", "content": "x"}]},
            "message 2 of row 3 of a.jsonl: the role 'asistant' is unknown; did you mean assistant?",
        ),
        (
            {"messages": [{"from": "bing", "value": "x"}]},
            "the role 'bing' is unknown; use one of system, user, assistant, tool, human, gpt",
        ),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "the role .* is unknown; use one of system"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]},
            "message 2 of row 3 of a.jsonl: its content is .*, which is not a text; give a string",
        ),
        ({"messages": [{"role": "user"}]}, "its content is None, which is not a text; give a string"),
        ({"messages": [{"from": "gpt", "value": 4}]}, "its value is 4, which is not a text; give a string"),
        (
            {"messages": [ASSISTANT | {"tool_calls": [{"name": "f"}]}]},
            "message 1 of row 3 of a.jsonl has tool_calls, which are not read; write",
        ),
        ({"messages": [ASSISTANT | {"content": "\ud800"}]}, "'content' has half a character at place 0"),
        (
            {"messages": [ASSISTANT | {"content": "a\ufdd0"}]},
            "holds U.FDD0, which is no character; delete it",
        ),
        (
            {"messages": [USER]},
            "row 3 of a.jsonl has no message of the assistant, .* add one, or delete the row",
        ),
        ({"messages": []}, "row 3 of a.jsonl has no message of the assistant"),
        (
            {"instruction": "Sort.", "output": " "},
            "row 3 of a.jsonl has an instruction without an output, .* add it, or",
        ),
        (
            {"instruction": "Sort.", "input": 4},
            "row 3 of a.jsonl: 'input' holds 4, which is not a text; give",
        ),
    ],
)
def test_what_is_no_conversation_is_named_with_its_place(values, message):
    with pytest.raises(ValueError, match=message) as raised:
        read(values)
    assert "\n" not in str(raised.value)

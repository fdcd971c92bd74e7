"""ChatML is written without Jinja as its template writes it."""

from chats import CONVERSATION
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.conversations.chat_template import ChatTemplate
from flaxmill.data.conversations.chatml import CHAT_TOKENS, CHATML, ChatML, without_marks

contents = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=12)
messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "user", "assistant", "tool"]),
        contents,
    ),
    max_size=6,
)


@given(messages)
def test_both_ways_to_write_it_are_one(conversation):
    template = ChatTemplate(CHATML, {}, CHAT_TOKENS)
    assert template.render(conversation) == ChatML().render(conversation)
    assert template.open_answer(conversation) == ChatML().open_answer(conversation)


def test_the_assistant_wrote_its_contents_and_the_ends_of_its_turns():
    text, targets = ChatML().render(CONVERSATION)
    said = [message["content"] for message in CONVERSATION if message["role"] == "assistant"]
    assert [text[start:end] for start, end in targets] == [f"{content}<|im_end|>" for content in said]
    assert text.startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
    )


def test_a_tokenizer_learns_no_marks():
    text = without_marks(ChatML().render(CONVERSATION).text)
    assert "im_" not in text
    assert "What is 2 + 2?" in text

"""ChatML: the form of a conversation where the tokenizer has no chat template of its own."""

from collections.abc import Collection, Sequence

from flaxmill.data.conversations.messages import Message, Rendered
from flaxmill.data.objectives import CHAT_TOKENS

START, END = CHAT_TOKENS

CHATML = (
    f"{{% for message in messages %}}{START}{{{{ message.role }}}}\n{{{{ message.content }}}}{END}\n"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
"""The same form as a chat template, for other programs."""


def without_marks(text: str) -> str:
    """A rendered text for a tokenizer to be trained on, which gets the marks of turns as special tokens."""
    return text.replace(START, "").replace(END, "")


class ChatML:
    """Renders conversations without Jinja.

    specials: the spellings of the special tokens that the text's reader knows.
    """

    def __init__(self, specials: Collection[str] = CHAT_TOKENS):
        self.specials = specials

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text; the assistant wrote its contents and the token that ends its turns."""
        text, targets = "", []
        for message in messages:
            text += f"{START}{message['role']}\n"
            start = len(text)
            text += message["content"] + END
            if message["role"] == "assistant":
                targets.append((start, len(text)))
            text += "\n"
        return Rendered(text, tuple(targets))

    def open_answer(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant's next turn begins."""
        return f"{self.render(messages).text}{START}assistant\n"

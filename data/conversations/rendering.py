"""Which form a tokenizer gives a conversation: its own chat template's, or the plain one."""

from collections.abc import Callable

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.conversations.chat_template import ChatTemplate
from flaxmill.data.conversations.chatml import CHATML, ChatML
from flaxmill.data.conversations.encoding import encode_conversation
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import token_text

Chat = ChatTemplate | ChatML


def load_chat(config: DataConfig) -> Chat:
    """What renders conversations for the config's tokenizer, which may not have been trained yet.

    Raises ValueError where the tokenizer or its chat template cannot be read.
    """
    if config.tokenizer in TRAINED:
        return ChatML()
    return make_chat(Tokenizer.load(config.tokenizer, by_spelling=config.framing == "spelled"))


def make_chat(tokenizer: Tokenizer) -> Chat:
    """What renders conversations for the tokenizer. Raises ValueError where its template cannot be read."""
    source = tokenizer.chat_template
    if source is None or source == CHATML:
        return ChatML(tokenizer.added_names)
    named = {key: value for key, value in tokenizer.settings_with_roles().items() if key.endswith("_token")}
    tokens = {key: text for key, value in named.items() if (text := token_text(value)) is not None}
    return ChatTemplate(source, tokens, tokenizer.added_names)


def with_chat_template(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the plain form as its chat template where it has none, so that other programs know
    how its conversations were written."""
    if tokenizer.chat_template is not None:
        return tokenizer
    return tokenizer.with_settings({"chat_template": CHATML})


def make_question_reader(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """A function from a user's turn to the ids of the text up to where the assistant's begins.

    It raises ValueError where the chat template refuses a conversation that begins so.
    """
    chat = make_chat(tokenizer)

    def read(text: str) -> list[int]:
        return tokenizer.encode(chat.open_answer([{"role": "user", "content": text}]), markup=True)

    return read


def find_turn_end(tokenizer: Tokenizer) -> int | None:
    """The special token that ends the assistant's turns; None: they have none, or begin differently."""
    try:
        rendered = make_chat(tokenizer).render(
            [{"role": role, "content": "a"} for role in ("user", "assistant")]
        )
    except ValueError:
        return None
    ids, is_target = encode_conversation(rendered, tokenizer)
    last = int(ids[is_target][-1]) if is_target.any() else None
    return last if last in tokenizer.special_ids else None

"""Which form a tokenizer gives a conversation: its own chat template's, or the plain one."""

from collections.abc import Callable, Sequence

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.conversations.chat_template import ChatTemplate
from flaxmill.data.conversations.chatml import CHAT_TOKENS, CHATML, ChatML
from flaxmill.data.conversations.encoding import encode_conversation
from flaxmill.data.conversations.messages import Message
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


def can_converse(tokenizer: Tokenizer) -> bool:
    """Whether it has a chat template, or the tokens of the plain form."""
    return tokenizer.chat_template is not None or tokenizer.added_names.issuperset(CHAT_TOKENS)


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
    read = make_conversation_reader(tokenizer)
    return lambda text: read([{"role": "user", "content": text}])


def make_conversation_reader(tokenizer: Tokenizer) -> Callable[[Sequence[Message]], list[int]]:
    """A function from messages to the ids of their text up to where the assistant's next turn begins.

    It raises ValueError where the chat template refuses them.
    """
    chat = make_chat(tokenizer)
    return lambda messages: tokenizer.encode(chat.open_answer(messages), markup=True)


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

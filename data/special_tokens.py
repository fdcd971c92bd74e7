"""The special tokens that an objective needs, and the one that a decoder reads first."""

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.conversations.chatml import CHATML
from flaxmill.data.objectives import SpecialToken, added_tokens, data_of
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import TEMPLATE_FILE

_NAMES: dict[SpecialToken, str] = {
    "mask": "[MASK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "closing": "<|endoftext|> or </s>",
}


def check_trained_specials(config: DataConfig, objective: str) -> None:
    """Raises, before a tokenizer is trained, what require_special_tokens would raise afterwards."""
    if data_of(objective).frames_two_texts and config.tokenizer in ("bpe", "bytes"):
        raise _lacks(["[CLS]", "[SEP]"], objective, config)


def require_special_tokens(tokenizer: Tokenizer, objective: str, config: DataConfig) -> None:
    """Raises ValueError, naming the tokens that the tokenizer lacks."""
    if missing := lacking_tokens(tokenizer, objective, config):
        raise _lacks(missing, objective, config)


def lacking_tokens(tokenizer: Tokenizer, objective: str, config: DataConfig) -> list[str]:
    """The names of the special tokens that the objective needs and the tokenizer lacks."""
    roles = data_of(objective).special_tokens
    lacking = [_NAMES[role] for role in roles if getattr(tokenizer, f"{role}_id") is None]
    if data_of(objective).reads_conversations and tokenizer.chat_template not in (None, CHATML):
        return lacking
    if data_of(objective).may_converse and config.tokenizer not in TRAINED:
        return lacking
    # The first missing name is enough to say it.
    return lacking + [name for name in added_tokens(objective, config) if not _has_added(tokenizer, name)][:1]


def _has_added(tokenizer: Tokenizer, name: str) -> bool:
    """Whether it was added to the vocabulary; Qwen's marks of moved middles are, but are not special."""
    if name in tokenizer.added_names:
        return True
    return any(token.content == name for token in tokenizer.inner.get_added_tokens_decoder().values())


def decoder_start(tokenizer: Tokenizer, *stated: int | None) -> int:
    """The id that a decoder reads first: a stated one, else the pad token's (as in T5 and Marian), else the
    end token's."""
    known = (*stated, tokenizer.pad_id, tokenizer.closing_id)
    return next((id_ for id_ in known if id_ is not None), 0)


def _lacks(missing: list[str], objective: str, config: DataConfig) -> ValueError:
    trained = "wordpiece" if data_of(objective).frames_two_texts else "bpe"
    template = f", or put its chat template beside it as {TEMPLATE_FILE}"
    has_them = f"one that has them{template if data_of(objective).reads_conversations else ''}"
    return ValueError(
        f"objective={objective} needs the tokens {', '.join(missing)}, which data.tokenizer="
        f"{config.tokenizer!r} lacks; use data.tokenizer={trained}, or {has_them}"
    )

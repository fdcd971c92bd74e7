"""Which special tokens an objective needs, and that a tokenizer has them."""

from flaxmill.data.config import DataConfig
from flaxmill.data.tokenization import Tokenizer

# Objectives that frame two texts in [CLS] and [SEP].
_FRAMED = ("mlm_nsp", "question_answering")


def check_trained_specials(config: DataConfig, objective: str) -> None:
    """Refuses before the training of a tokenizer what require_special_tokens would refuse after it."""
    if objective in _FRAMED and config.tokenizer in ("bpe", "bytes"):
        raise _lacks(["[CLS]", "[SEP]"], objective, config)


def require_special_tokens(tokenizer: Tokenizer, objective: str, config: DataConfig) -> None:
    """Raises ValueError, naming the tokens that the tokenizer lacks."""
    needed = {}
    if objective in ("mlm", "mlm_nsp", "hybrid"):
        needed |= {"[MASK]": tokenizer.mask_id}
    if objective in _FRAMED:
        needed |= {"[CLS]": tokenizer.cls_id, "[SEP]": tokenizer.sep_id}
    if objective == "seq2seq":
        needed |= {"<|endoftext|> or </s>": tokenizer.closing_id}
    if missing := [name for name, id_ in needed.items() if id_ is None]:
        raise _lacks(missing, objective, config)


def _lacks(missing: list[str], objective: str, config: DataConfig) -> ValueError:
    return ValueError(
        f"objective={objective} needs the tokens {', '.join(missing)}, which data.tokenizer="
        f"{config.tokenizer!r} lacks; use data.tokenizer={'wordpiece' if objective in _FRAMED else 'bpe'}, "
        "or one that has them"
    )

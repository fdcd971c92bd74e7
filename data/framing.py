"""What stands around and between a row's texts: the tokenizer's own template, or that of its kind."""

import tokenizers
from tokenizers import processors

from flaxmill.data.config import DataConfig
from flaxmill.data.tokenization import Tokenizer

_SEPARATOR, _CLOSING = "separator", "closing"


def make_framer(tokenizer: Tokenizer, separator: str, *, closes: bool = False) -> tokenizers.Tokenizer:
    """A copy of the tokenizer that frames one text or a pair, for `encode(..., add_special_tokens=True)`.

    A template that the tokenizer brings is kept, so that rows equal those of transformers' AutoTokenizer.
    Else [CLS] A [SEP] B [SEP], with segments 0 and 1, where it has these tokens (<s> A </s></s> B </s> with
    segment 0 alone if it spells them so, as RoBERTa). Else, as for GPT, the text as it is, `separator`
    between two texts.

    Args:
      closes: end the only text with the end token even so, as encoder-decoders read it.
    """
    framer = _copy(tokenizer)
    if framer.num_special_tokens_to_add(False):
        return framer
    specials = {}
    if tokenizer.cls_id is None:
        specials[_SEPARATOR] = separator_ids(tokenizer, separator)
        single, pair = "$A", f"$A {_SEPARATOR} $B" if specials[_SEPARATOR] else "$A $B"
        if closes and tokenizer.closing_id is not None:
            specials[_CLOSING] = [tokenizer.closing_id]
            single = f"$A {_CLOSING}"
    else:
        assert tokenizer.sep_id is not None
        cls, sep = (_spelling(tokenizer, id_) for id_ in (tokenizer.cls_id, tokenizer.sep_id))
        specials = {cls: [tokenizer.cls_id], sep: [tokenizer.sep_id]}
        single = f"{cls} $A {sep}"
        pair = f"{single} $B:1 {sep}:1" if cls == "[CLS]" else f"{single} {sep} $B {sep}"
    _set_template(framer, single, pair, specials)
    return framer


def make_prompter(tokenizer: Tokenizer, separator: str) -> tokenizers.Tokenizer:
    """A copy of the tokenizer that frames a prompt for a decoder: what its template puts before a text, the
    prompt, `separator`."""
    specials = {_SEPARATOR: separator_ids(tokenizer, separator)}
    if before := leading_ids(tokenizer):
        specials[_CLOSING] = before
    framer = _copy(tokenizer)
    parts = [*([_CLOSING] if before else []), "$A", *([_SEPARATOR] if specials[_SEPARATOR] else [])]
    _set_template(framer, " ".join(parts), None, specials)
    return framer


def truncate(framer: tokenizers.Tokenizer, config: DataConfig, *, is_pair: bool) -> None:
    """Has the framer cut to data.sequence_length, of a pair the longer text first. Raises ValueError where
    what stands around the texts leaves no room for them."""
    num_around = framer.num_special_tokens_to_add(is_pair)
    if num_around + 1 + is_pair > config.sequence_length:
        raise ValueError(
            f"data.sequence_length={config.sequence_length} has no room beside the {num_around} tokens "
            "around the texts; raise it, or shorten data.separator"
        )
    framer.enable_truncation(config.sequence_length, strategy="longest_first")


def separator_ids(tokenizer: Tokenizer, separator: str) -> list[int]:
    """A special token by its name, or the ids of a text; the closing token for a text that has none, such as
    the line end that a WordPiece drops."""
    if not separator:
        return []
    id_ = tokenizer.inner.token_to_id(separator)
    if id_ is not None and id_ in tokenizer.special_ids:
        return [id_]
    closing = [] if tokenizer.closing_id is None else [tokenizer.closing_id]
    return tokenizer.encode(separator) or closing


def leading_ids(tokenizer: Tokenizer) -> list[int]:
    """The special tokens before a single text: [CLS], LLaMA's <s>, or none."""
    encoding = make_framer(tokenizer, "").encode("a")
    length = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else 0
    return encoding.ids[:length]


def _copy(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The original counts as unchangeable, and its copy is truncated; text never spells special tokens."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    copy.encode_special_tokens = True
    return copy


def _spelling(tokenizer: Tokenizer, id_: int) -> str:
    spelling = tokenizer.inner.id_to_token(id_)
    assert spelling is not None
    return spelling


def _set_template(
    framer: tokenizers.Tokenizer, single: str, pair: str | None, specials: dict[str, list[int]]
) -> None:
    special_tokens = [
        {"id": name, "ids": ids, "tokens": [framer.id_to_token(id_) for id_ in ids]}
        for name, ids in specials.items()
        if ids
    ]
    framer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=single, pair=pair or f"{single} $B", special_tokens=special_tokens
    )

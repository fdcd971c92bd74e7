"""The tokens before, between and after a row's texts: the tokenizer's own template, or its kind's."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import processors

from flaxmill.data.config import DataConfig, Framing
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts
from flaxmill.data.tokenizer.roles import Frame

_SEPARATOR, _CLOSING = "separator", "closing"


def document_frame(tokenizer: Tokenizer, framing: Framing) -> Frame:
    """The ids before and after a document of text, and before a prompt that a model continues.

    A tokenizer with [CLS] and [SEP] frames with these. Any other puts an end token after, and before what
    `framing` says.
    """
    after = () if tokenizer.closing_id is None else (tokenizer.closing_id,)
    if tokenizer.is_bert_like:
        assert tokenizer.cls_id is not None
        return Frame((tokenizer.cls_id,), after)
    if framing == "template":
        return Frame(tokenizer.template.before, tokenizer.template.after or after)
    return Frame((), () if tokenizer.end_id is None else (tokenizer.end_id,))


def without_frame(ids: np.ndarray, frame: Frame) -> np.ndarray:
    """The ids of a document that was tokenized before, without what the frame will put around them."""
    before, after = len(frame.before), len(frame.after)
    if before and tuple(ids[:before].tolist()) == tuple(frame.before):
        ids = ids[before:]
    if after and tuple(ids[-after:].tolist()) == tuple(frame.after):
        ids = ids[:-after]
    return ids


def make_prompt_reader(tokenizer: Tokenizer, framing: Framing, *, markup: bool) -> Callable[[str], list[int]]:
    """A function from a text to the ids that a model continues: they begin as documents did in training."""
    before = document_frame(tokenizer, framing).before
    return lambda text: [*before, *tokenizer.encode(text, markup=markup)]


def make_framer(
    tokenizer: Tokenizer, separator: str, *, closes: bool = False, markup: bool
) -> tokenizers.Tokenizer:
    """A copy of the tokenizer that frames one text or a pair, for `encode(..., add_special_tokens=True)`.

    The tokenizer's own template is kept, so that rows equal the rows of transformers' AutoTokenizer. Without
    a template, a tokenizer with [CLS] and [SEP] gives [CLS] A [SEP] B [SEP] with segments 0 and 1, or
    <s> A </s></s> B </s> with segment 0 alone if it spells them so, as RoBERTa does. Any other, such as
    GPT's, leaves the text as it is and puts `separator` between two texts.

    Args:
      closes: end a single text with the end token also in this last case, as encoder-decoders read it.
      markup: read special tokens that texts spell as these tokens, as AutoTokenizer does.
    """
    framer = _copy(tokenizer, markup)
    if framer.num_special_tokens_to_add(False):
        return framer
    specials = {}
    if not tokenizer.is_bert_like:
        specials[_SEPARATOR] = separator_ids(tokenizer, separator)
        single, pair = "$A", f"$A {_SEPARATOR} $B" if specials[_SEPARATOR] else "$A $B"
        if closes and tokenizer.closing_id is not None:
            specials[_CLOSING] = [tokenizer.closing_id]
            single = f"$A {_CLOSING}"
    else:
        assert tokenizer.cls_id is not None
        assert tokenizer.sep_id is not None
        cls, sep = (_spelling(tokenizer, id_) for id_ in (tokenizer.cls_id, tokenizer.sep_id))
        specials = {cls: [tokenizer.cls_id], sep: [tokenizer.sep_id]}
        single = f"{cls} $A {sep}"
        # RoBERTa's tokens have two roles each; its pairs have one segment and two separators.
        is_roberta = tokenizer.sep_id == tokenizer.end_id
        pair = f"{single} {sep} $B {sep}" if is_roberta else f"{single} $B:1 {sep}:1"
    _set_template(framer, single, pair, specials)
    return framer


def make_prompter(tokenizer: Tokenizer, separator: str, *, markup: bool) -> tokenizers.Tokenizer:
    """A copy of the tokenizer that frames a prompt for a decoder: what its template puts before a text, the
    prompt, `separator`."""
    specials = {_SEPARATOR: separator_ids(tokenizer, separator)}
    if before := list(leading_ids(tokenizer)):
        specials[_CLOSING] = before
    framer = _copy(tokenizer, markup)
    parts = [*([_CLOSING] if before else []), "$A", *([_SEPARATOR] if specials[_SEPARATOR] else [])]
    _set_template(framer, " ".join(parts), None, specials)
    return framer


def truncate(
    framer: tokenizers.Tokenizer, config: DataConfig, *, is_pair: bool, side: Literal["left", "right"]
) -> None:
    """Makes the framer cut rows to data.sequence_length; of a pair, it cuts the longer text first.

    Args:
      side: the end at which a text loses tokens, the tokenizer's truncation_side.

    Raises:
      ValueError: the tokens around the texts leave no room for them.
    """
    num_around = framer.num_special_tokens_to_add(is_pair)
    if num_around + 1 + is_pair > config.sequence_length:
        raise ValueError(
            f"data.sequence_length={config.sequence_length} has no room for texts beside the "
            f"{num_around} tokens around them; raise it, or shorten data.separator"
        )
    framer.enable_truncation(config.sequence_length, strategy="longest_first", direction=side)


def separator_ids(tokenizer: Tokenizer, separator: str) -> list[int]:
    """The id of a special token that `separator` names, or the ids of its text. A text without ids, such as
    the line end that a WordPiece drops, gives the closing token."""
    if not separator:
        return []
    id_ = tokenizer.inner.token_to_id(separator)
    if id_ is not None and id_ in tokenizer.special_ids:
        return [id_]
    closing = [] if tokenizer.closing_id is None else [tokenizer.closing_id]
    return encode_texts(tokenizer.encode_batch, [separator], lambda _: "data.separator")[0] or closing


def leading_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens before a single text: [CLS], LLaMA's <s>, or none."""
    return document_frame(tokenizer, "template").before


def framed_json(tokenizer: Tokenizer, framing: Framing) -> str:
    """A tokenizer.json with which transformers' AutoTokenizer frames texts as training did."""
    if tokenizer.is_bert_like and not tokenizer.inner.num_special_tokens_to_add(False):
        return make_framer(tokenizer, "", markup=True).to_str()
    if document_frame(tokenizer, framing) == document_frame(tokenizer, "template"):
        return tokenizer.to_json()
    plain = _copy(tokenizer, markup=True)
    _set_template(plain, "$A", "$A $B:1", {})
    return plain.to_str()


def _copy(tokenizer: Tokenizer, markup: bool) -> tokenizers.Tokenizer:
    """A copy to be truncated: the original must not change."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    copy.encode_special_tokens = tokenizer.reader(markup).encode_special_tokens
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

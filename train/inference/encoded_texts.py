"""Texts as token ids for a model that reads them whole: framed by the tokenizer, and cut to its length."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import normalizers

from flaxmill.data.examples.framing import make_framer
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts, half_character
from flaxmill.model.config import ModelConfig


class EncodedTexts(NamedTuple):
    """The ids of each text, which of them are text (1) or its frame (0), and how many texts were cut."""

    ids: list[list[int]]
    is_text: list[list[int]]
    num_cut: int


_MANY = 2**31  # as many as the tokenizers library can count on any machine

Encode = Callable[[Sequence[str]], EncodedTexts]


def longest_text(config: ModelConfig, tokenizer: Tokenizer, stated: int | None = None) -> int | None:
    """The most tokens that are read of a text: what the model can address, and what its files state.

    Args:
      stated: takes the place of what the tokenizer's files state; None: nothing does.
    """
    if stated is not None:
        known = [stated, config.max_positions if config.positions == "learned" else None]
    else:
        known = [config.max_positions, tokenizer.max_length]
    return min((length for length in known if length is not None), default=None)


def make_encoder(tokenizer: Tokenizer, limit: int | None, *, lowercase: bool = False) -> Encode:
    """A function from texts to ids, as transformers' AutoTokenizer gives them with `truncation`.

    Raises:
      ValueError: `limit` has no room for the tokens around a text. The function raises it for a text that is
        not text, or that fails to encode.
    """
    framer = make_framer(tokenizer, "", markup=True)
    if lowercase:
        parts = [normalizers.Lowercase(), *([framer.normalizer] if framer.normalizer else [])]
        framer.normalizer = normalizers.Sequence(parts)  # pyright: ignore[reportAttributeAccessIssue]
    if limit is not None:
        around = framer.num_special_tokens_to_add(False)
        if limit <= around:
            raise ValueError(f"rows of {limit} tokens have no room beside the {around} around a text")
        framer.enable_truncation(min(limit, _MANY), direction=tokenizer.truncation_side)

    def encode(texts: Sequence[str]) -> EncodedTexts:
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str) or half_character(text) is not None:
                raise ValueError(f"text {number} is {text!r:.60}, which is not text; give strings")
        encodings = encode_texts(framer.encode_batch_fast, texts, lambda number: f"text {number + 1}")
        return EncodedTexts(
            [encoding.ids for encoding in encodings],
            [[1 - frames for frames in encoding.special_tokens_mask] for encoding in encodings],
            sum(bool(encoding.overflowing) for encoding in encodings),
        )

    return encode

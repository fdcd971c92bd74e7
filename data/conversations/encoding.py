"""Conversations as tokens, each predicted or not."""

from collections.abc import Mapping, Sequence

import numpy as np

from flaxmill.data.conversations.messages import Rendered
from flaxmill.data.tokenization import Tokenizer

# n tokens of a conversation

Encoded = tuple[np.ndarray, np.ndarray]
"""int32 [n] ids, and bool [n]: whether the assistant wrote the token."""


def encode_conversations(
    conversations: Sequence[Rendered], tokenizer: Tokenizer, *, markup: bool = True
) -> list[Encoded]:
    """The tokens of rendered conversations, or of other texts with targets, on all cores.

    The template's special tokens are read as these, and nothing is put around a text, as in transformers'
    apply_chat_template; without `markup` what spells a special token is text. A token that lies in a target
    only in part is predicted as well.
    """
    texts = [conversation.text for conversation in conversations]
    encodings = tokenizer.reader(markup).encode_batch(texts, add_special_tokens=False)
    return [
        (np.array(encoding.ids, np.int32), _overlap(encoding.offsets, conversation.targets))
        for encoding, conversation in zip(encodings, conversations, strict=True)
    ]


def encode_conversation(conversation: Rendered, tokenizer: Tokenizer) -> Encoded:
    """As encode_conversations, for one."""
    return encode_conversations([conversation], tokenizer)[0]


def turn_lengths(is_target: np.ndarray) -> list[int]:
    """The lengths of the runs of tokens that are given and that the assistant wrote, in turn; the first is of
    given ones, and may be 0."""
    edges = np.flatnonzero(np.diff(is_target, prepend=False, append=not is_target[-1:].any()))
    return np.diff(edges, prepend=0).tolist()


def spread_turns(lengths: np.ndarray) -> np.ndarray:
    """Whether the assistant wrote each token, bool: what `turn_lengths` gave the lengths of."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def join_bits(tokens: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """Ids that carry whether they are predicted, int32, so that whatever packs tokens packs both."""
    return tokens.astype(np.int32) << 1 | is_target


def split_bits(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Packed rows of such ids as rows of tokens with `is_target`, a bit for each."""
    joined = rows["tokens"]
    return {**rows, "tokens": joined >> 1, "is_target": np.packbits(joined & 1, axis=1)}


def _overlap(offsets: Sequence[tuple[int, int]], targets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Whether each token, given by its place in the text, shares a character with a target."""
    if not offsets or not targets:
        return np.zeros(len(offsets), bool)
    starts, ends = np.array(offsets, np.int64).T
    target_starts, target_ends = np.array(targets, np.int64).T
    nearest = np.searchsorted(
        target_ends, starts, side="right"
    )  # the first target that ends behind the start
    return ends > np.append(target_starts, np.iinfo(np.int64).max)[nearest]

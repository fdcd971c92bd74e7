"""A token is predicted where it shares a character with what the assistant wrote."""

import itertools

import numpy as np
import pytest
from chats import CONVERSATION
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import KINDS, ours

from flaxmill.data.conversations.chatml import ChatML
from flaxmill.data.conversations.encoding import (
    _overlap,
    encode_conversation,
    encode_conversations,
    join_bits,
    split_bits,
    spread_turns,
    turn_lengths,
)

spans = st.lists(st.integers(0, 30), max_size=8).map(sorted)


@given(spans, st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted))
def test_tokens_and_targets_overlap_as_their_characters_do(token_edges, target_edges):
    tokens = list(itertools.pairwise(token_edges))
    targets = list(zip(target_edges[::2], target_edges[1::2], strict=False))
    said = {character for start, end in targets for character in range(start, end)}
    found = _overlap(tokens, targets)
    for (start, end), is_target in zip(tokens, found, strict=True):
        if start < end:
            assert is_target == bool(said & set(range(start, end)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_marks_the_same_text(kind):
    tokenizer = ours(kind)
    rendered = ChatML().render(CONVERSATION[:3])
    ids, is_target = encode_conversation(rendered, tokenizer)
    assert ids.dtype == np.int32
    assert ids.tolist() == tokenizer.encode(rendered.text, markup=True)
    start, _ = rendered.targets[0]
    before = len(tokenizer.encode(rendered.text[:start], markup=True))
    assert abs(int(np.flatnonzero(is_target)[0]) - before) <= 1
    assert np.diff(np.flatnonzero(is_target)).max(initial=1) == 1
    assert 0 < is_target.sum() < len(ids)


def test_a_batch_is_what_its_conversations_are_alone():
    tokenizer = ours("gpt2")
    rendered = [ChatML().render(CONVERSATION[:n]) for n in (3, 2, 5)]
    for (ids, is_target), one in zip(encode_conversations(rendered, tokenizer), rendered, strict=True):
        alone = encode_conversation(one, tokenizer)
        np.testing.assert_array_equal(ids, alone[0])
        np.testing.assert_array_equal(is_target, alone[1])
    assert not encode_conversation(rendered[1], tokenizer)[1].any()


@given(st.lists(st.tuples(st.integers(0, 2**24), st.booleans()), min_size=1, max_size=20))
def test_bits_come_apart_from_tokens_as_they_were_joined(pairs):
    tokens, is_target = (np.array(values) for values in zip(*pairs, strict=True))
    rows = split_bits({"tokens": join_bits(tokens, is_target)[None], "length": np.array([len(pairs)])})
    np.testing.assert_array_equal(rows["tokens"][0], tokens)
    np.testing.assert_array_equal(np.unpackbits(rows["is_target"], axis=1, count=len(pairs))[0], is_target)
    assert rows["length"] == len(pairs)


@given(st.lists(st.booleans(), max_size=20))
def test_turns_are_as_long_as_they_were(bits):
    lengths = turn_lengths(np.array(bits, bool))
    np.testing.assert_array_equal(spread_turns(np.array(lengths, np.int32)), np.array(bits, bool))
    assert all(length > 0 for length in lengths[1:])
    assert sum(lengths) == len(bits)

"""Packing loses no token, knows where documents end, and restarts positions there."""

import numpy as np
import pytest

from flaxmill.data.text.packing import Packer, next_in_document, unpack_rows


def _pack(documents, length, per_call=2):
    packer = Packer(length)
    parts = []
    for first in range(0, len(documents), per_call):
        parts.append(packer.add([np.array(document) for document in documents[first : first + per_call]]))
    parts.append(packer.finish())
    stored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return stored, packer.num_tokens


def _unpack(documents, length, per_call=2):
    stored, num_tokens = _pack(documents, length, per_call)
    return unpack_rows(stored, num_tokens - length * np.arange(len(stored["tokens"])), range(length))


def test_rows_hold_tokens_documents_and_positions_of_a_hand_made_stream():
    tokens, documents, positions = _unpack([[11, 12, 13], [21, 22], [31, 32, 33, 34, 35]], 4)
    # The stream is 11 12 13 21 | 22 31 32 33 | 34 35; a row repeats the first token of the next.
    np.testing.assert_array_equal(tokens, [[11, 12, 13, 21, 22], [22, 31, 32, 33, 34], [34, 35, 0, 0, 0]])
    np.testing.assert_array_equal(documents, [[1, 1, 1, 2, 2], [1, 2, 2, 2, 2], [1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(positions, [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3], [0, 1, 0, 0, 0]])


def test_a_target_never_crosses_a_document():
    _, documents, _ = _unpack([[11, 12, 13], [21, 22], [31, 32, 33, 34, 35]], 4)
    np.testing.assert_array_equal(next_in_document(documents), [[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize("num_tokens", [1, 2, 4, 5, 6, 8, 9, 41])
@pytest.mark.parametrize("per_call", [1, 3, 100])
def test_every_token_stands_in_one_row_whatever_the_chunks(num_tokens, per_call):
    stream = list(range(1, num_tokens + 1))
    documents = [stream[first : first + 3] for first in range(0, num_tokens, 3)]
    tokens, numbers, _ = _unpack(documents, 4, per_call)
    inputs = tokens[:, :4][numbers[:, :4] > 0].tolist()
    # If the last token would be alone in a row, it is only a target of the row before.
    alone = num_tokens > 1 and num_tokens % 4 == 1
    assert inputs == (stream[:-1] if alone else stream)
    assert tokens[numbers > 0].max() == num_tokens


def test_an_empty_stream_has_no_rows():
    packer = Packer(4)
    assert len(packer.add([])["tokens"]) == 0
    assert len(packer.finish()["tokens"]) == 0

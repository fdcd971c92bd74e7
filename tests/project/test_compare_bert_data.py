"""The script that compares pairs with google-research/bert's reads such a program without TensorFlow."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import word_piece
from flaxmill.data.tokenizer.settings import TokenizerSettings

_FILE = Path(__file__).resolve().parents[2] / "docs" / "compare_bert_data.py"
_SPEC = importlib.util.spec_from_file_location("compare_bert_data", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(script)

# A program with the same names, which makes one pair of the first two lines and masks the second token.
PROGRAM = """
import types
import tensorflow as tf
import tokenization

FLAGS = tf.flags.FLAGS
tf.flags.DEFINE_string("input_file", None, "")


def create_training_instances(files, tokenizer, length, copies, short, rate, most, rng):
    with tf.gfile.GFile(files[0], "r") as reader:
        a, b = (tokenizer.tokenize(tokenization.convert_to_unicode(reader.readline())) for _ in range(2))
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    label, tokens[1] = tokens[1], "[MASK]"
    segments = [0] * (2 + len(a)) + [1] * (1 + len(b))
    return copies * [types.SimpleNamespace(
        tokens=tokens, segment_ids=segments, masked_lm_positions=[1], masked_lm_labels=[label],
        is_random_next=False,
    )]
"""


@pytest.fixture
def tokenizer():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three"]
    inner: Inner = word_piece(pieces, TokenizerSettings())
    return Tokenizer(inner)


def test_pairs_of_the_program_are_read_with_their_masks_put_back(tmp_path, tokenizer):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "text.txt").write_text("one two\nthree\n")
    before = {"tensorflow", "tokenization"} & set(sys.modules)
    module = script.load_reference(tmp_path / "program.py")
    assert {"tensorflow", "tokenization"} & set(sys.modules) == before
    pairs = script.read_reference(module, tmp_path / "text.txt", tokenizer, 3)
    np.testing.assert_array_equal(pairs.tokens[:, :7], 3 * [[2, 5, 6, 3, 7, 3, 0]])
    np.testing.assert_array_equal(pairs.seen[:, :7], 3 * [[2, 4, 6, 3, 7, 3, 0]])
    assert (pairs.copy.tolist(), pairs.length.tolist()) == ([0, 1, 2], [6, 6, 6])
    measured = script.measure(pairs, tokenizer)
    assert measured["of these masked"] == "100.00%"
    assert measured["mean length of A"] == "2.00 ± 0.00"
    assert measured["predicted tokens of all"] == "16.667%"


def test_a_mean_over_copies_has_the_error_of_the_copies():
    rng = np.random.default_rng(0)
    copy = np.repeat(np.arange(100), 50)
    shared = rng.normal(size=100)[copy]  # all pairs of a copy are alike
    error = float(script._mean_over_copies(shared, copy).split()[-1])
    assert 0.15 < error < 0.25  # 2 / sqrt(100), not 2 / sqrt(5000)


def test_the_table_has_a_row_for_each_measure():
    table = script.make_table({"a": {"x": "1", "y": "2"}, "b": {"x": "3", "y": "4"}})
    assert table == "| | a | b |\n|---|---|---|\n| x | 1 | 3 |\n| y | 2 | 4 |\n"

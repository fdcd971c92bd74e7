"""A shown batch displays its documents, masks and targets."""

from typing import Any

import numpy as np
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.show import describe_batch
from flaxmill.data.text.held_out import split_corpus
from flaxmill.data.vocabulary.training import make_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("some text to split in two\n" * 9)
    config = DataConfig(files=(str(tmp_path / "a.txt"),), tokenizer="bytes")
    return make_tokenizer(config, split_corpus(config), log=lambda line: None)


def _batch(tokenizer):
    """A row of 7 that packs ab and c?, where a mask hides d before the line end; and an empty row."""
    ids = [*tokenizer.encode("abc"), tokenizer.mask_id, *tokenizer.encode("\n"), 0, 0]
    batch: dict[str, Any] = {
        name: np.zeros((2, 7), np.int32) for name in ("tokens", "mask", "documents", "targets")
    }
    batch["tokens"][0] = ids
    batch["mask"][0, :5] = 1
    batch["documents"][0, :5] = [1, 1, 2, 2, 2]
    batch["targets"][0, 3] = tokenizer.encode("d")[0]
    batch["weights"] = (batch["targets"] > 0).astype(np.float32)
    return batch


def test_documents_masks_and_targets_are_spelled(tokenizer):
    assert describe_batch(_batch(tokenizer), tokenizer, rows=1).splitlines() == [
        "2 rows of 7 tokens, 5 real, 1 predicted",
        "",
        "row 0: 5 tokens, 1 predictions",
        "  document 1, places 0-1: ab",
        "  document 2, places 2-4: c<|mask|>\\n",
        "  place 3: sees '<|mask|>', predicts 'd'",
    ]


def test_an_empty_row_is_shown_as_empty(tokenizer):
    assert describe_batch(_batch(tokenizer), tokenizer, rows=9).endswith("row 1: 0 tokens, 0 predictions")


def test_kinds_of_rows_are_named(tokenizer):
    batch = _batch(tokenizer)
    hybrid = describe_batch(batch | {"causal": np.array([1, 0])}, tokenizer)
    assert "row 0: 5 tokens, 1 predictions, causal" in hybrid
    assert "row 1: 0 tokens, 0 predictions, masked next token" in hybrid
    pairs = batch | {"segments": np.repeat([[0, 1]], 7, axis=1)[:, :7].repeat(2, axis=0)}
    pairs["nsp_labels"] = np.array([1, 0])
    assert "is random" in describe_batch(pairs, tokenizer)
    assert "is what follows A" in describe_batch(pairs, tokenizer)


def test_many_predictions_are_counted_rather_than_listed(tokenizer):
    batch: dict[str, Any] = {
        name: np.ones((1, 40), np.int32) for name in ("tokens", "mask", "documents", "targets")
    }
    batch["weights"] = np.ones((1, 40), np.float32)
    assert "and 28 more predictions" in describe_batch(batch, tokenizer)

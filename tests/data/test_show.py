"""A shown batch displays its documents, masks and targets."""

from typing import Any

import numpy as np
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.show import batch_as_json, describe_batch, show_batch
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
    shown = describe_batch(pairs, tokenizer, labels=("what follows A", "random"))
    assert "row 0: 5 tokens, 1 predictions, B of 0 tokens is random" in shown
    assert "is what follows A" in shown


def test_many_predictions_are_counted_rather_than_listed(tokenizer):
    batch: dict[str, Any] = {
        name: np.ones((1, 40), np.int32) for name in ("tokens", "mask", "documents", "targets")
    }
    batch["weights"] = np.ones((1, 40), np.float32)
    assert "and 28 more predictions" in describe_batch(batch, tokenizer)


def styles(batch, tokenizer):
    """(text, style) of each part of a line on a document."""
    lines = [line for line in show_batch(batch, tokenizer, rows=1) if line and "document" in line[0].text]
    return [(span.text, span.style) for line in lines for span in line[1:]]


def test_masked_places_and_those_predicted_unmasked_have_their_own_styles(tokenizer):
    batch = _batch(tokenizer)
    assert ("<|mask|>", "masked") in styles(batch, tokenizer)
    batch["weights"][0, 1] = 1
    assert ("b", "predicted") in styles(batch, tokenizer)
    assert ("a", "text") in styles(batch, tokenizer)


def test_a_causal_row_is_not_marked_where_it_is_predicted(tokenizer):
    batch = _batch(tokenizer)
    batch["weights"][0, :5] = 1
    assert not any(style == "predicted" for _, style in styles(batch, tokenizer))


def test_targets_are_styled(tokenizer):
    (line,) = [
        line for line in show_batch(_batch(tokenizer), tokenizer) if line and "place 3" in line[0].text
    ]
    assert line[1] == ("'d'", "target")


def test_the_two_segments_of_a_pair_are_apart(tokenizer):
    batch = _batch(tokenizer) | {"segments": np.array([[0, 0, 1, 1, 1, 0, 0]] * 2)}
    batch["documents"] = batch["mask"].copy()
    lines = describe_batch(batch, tokenizer, rows=1).splitlines()
    assert "  document 1, segment A, places 0-1: ab" in lines
    assert "  document 1, segment B, places 2-4: c<|mask|>\\n" in lines


def test_the_bytes_of_a_character_are_shown_together(tokenizer):
    batch = _batch(tokenizer)
    batch["tokens"][0] = tokenizer.encode("a東\x1bcd")[:7]
    batch["mask"][0], batch["documents"][0], batch["weights"][0] = 1, 1, 0
    batch["weights"][0, 2] = 1
    lines = describe_batch(batch, tokenizer, rows=1).splitlines()
    assert "  document 1, places 0-6: a東\\x1bcd" in lines  # the escape is spelled, not obeyed
    assert any(line.startswith("  place 2: sees '<9D>'") for line in lines)


def test_json_has_every_array_and_the_text_of_each_place(tokenizer):
    batch = _batch(tokenizer)
    row, empty = batch_as_json(batch, tokenizer, rows=9)
    assert row["pieces"] == ["a", "b", "c", "<|mask|>", "\n", "", ""]
    assert {name: row[name] for name in batch} == {name: batch[name][0].tolist() for name in batch}
    assert empty["pieces"] == [""] * 7


def test_what_is_predicted_of_a_conversation_is_shown_as_runs(tokenizer):
    """The reader of a row sees which of its tokens the assistant wrote."""
    ids = tokenizer.encode("ask yes, so no")
    is_target = np.array([0] * 4 + [1] * 3 + [0] * 5 + [1] * 2)
    batch = {
        "tokens": np.array([ids]),
        "mask": np.ones((1, len(ids)), np.int32),
        "documents": np.ones((1, len(ids)), np.int32),
        "targets": np.array([[*ids[1:], 0]]) * np.append(is_target[1:], 0),
        "weights": np.append(is_target[1:], 0)[None].astype(np.float32),
    }
    assert describe_batch(batch, tokenizer).splitlines()[-2:] == [
        "  places 3-5 predict yes",
        "  places 11-12 predict no",
    ]
    document = show_batch(batch, tokenizer)[3]
    assert "".join(span.text for span in document if span.style == "target") == "yesno"


def test_a_causal_row_has_no_runs(tokenizer):
    ids = np.array([tokenizer.encode("abcdef")])
    ones = np.ones_like(ids)
    batch = {
        "tokens": ids,
        "mask": ones,
        "documents": ones,
        "targets": np.roll(ids, -1),
        "weights": ones * 1.0,
    }
    batch["weights"][0, -1] = 0
    assert "predict " not in describe_batch(batch, tokenizer)

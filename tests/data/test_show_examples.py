"""A shown row of labelled examples displays what is read and what is to be answered."""

from typing import Any

import pytest
from task_files import LABELS, has_encoder, objective_of, write_task

from flaxmill.data.batches import Batches
from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.show import describe_batch


@pytest.fixture
def show(tmp_path):
    def shown(task: str, batch_size: int = 4, **edits: Any):
        """Lines of the first held-out row, its example, and the whole text."""
        config, objective = write_task(tmp_path, task), objective_of(task)
        dataset = prepare(
            config,
            objective,
            cache=tmp_path / "cache",
            log=lambda line: None,
            has_encoder=has_encoder(task),
        )
        arguments: Any = dict(config=config, objective=objective, batch_size=batch_size, seed=0)
        batch = Batches(dataset, "valid", **arguments).batch(0) | edits
        text = describe_batch(batch, dataset.tokenizer, rows=batch_size, labels=dataset.label_names)
        return text.split("\n\n")[1].splitlines(), next(read_examples(config, objective, "valid")), text

    return shown


def test_a_text_and_its_label(show):
    lines, example, text = show("classification")
    assert text.startswith("4 rows of 24 tokens, ")
    assert lines[0].startswith("row 0: example 0, ")
    assert lines[1] == f"  reads: [CLS] {example.texts[0]} [SEP]"
    assert lines[2] == f"  label: {example.wanted} ({LABELS.index(example.wanted)})"


def test_many_labels_or_none(show):
    lines, example, text = show("multi_label", batch_size=12)
    names = ", ".join(f"{label} ({LABELS.index(label)})" for label in example.wanted)
    assert lines[2] == f"  labels: {names or 'none'}"
    assert text.count("  labels: none") >= 1
    assert text.count(", weather (2)") >= 1


def test_a_number(show):
    lines, example, _ = show("regression")
    assert lines[2] == f"  label: {example.wanted:g}"


def test_rows_beyond_the_end_are_said_to_be_none(show):
    _, _, text = show("classification", batch_size=32)
    assert "row 31: no example, 0 tokens" in text


def test_tags_stand_beside_their_words(show):
    lines, example, _ = show("tagging")
    assert (
        lines[2]
        == f"  place 1: {example.texts[0]!r} is {example.wanted[0]} ({int(example.wanted[0] == 'other')})"
    )


def test_an_answer_or_that_there_is_none(show):
    _, example, text = show("answers")
    assert "  answer: none in this window" in text
    assert f"  answer: {example.wanted[0].text} (places " in text


def test_source_and_target(show):
    lines, example, _ = show("translation")
    assert lines[1:] == [
        f"  reads: {example.texts[0]}<|endoftext|>",
        f"  decoder reads: <|endoftext|>{example.wanted}",
        f"  writes: {example.wanted}<|endoftext|>",
    ]


def test_prompt_and_target(show):
    lines, example, _ = show("prompts")
    assert lines[1:] == [f"  prompt: {example.texts[0]}\\n", f"  writes: {example.wanted}<|endoftext|>"]

"""Sources, prompts and targets are framed, cut and ended so that training and generation see the same."""

import numpy as np
import pytest
from small_tokenizers import TEXT, draw_texts, ours, theirs

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.framing import make_prompter
from flaxmill.data.examples.target_rows import make_prompt_encoder, make_source_encoder

CONFIG = DataConfig(sequence_length=32, target_length=8)


def make_pairs(sources: list[str], targets: list[str]) -> list[Example]:
    return [
        Example((source,), target, {}, f"row {number}")
        for number, (source, target) in enumerate(zip(sources, targets, strict=True), start=1)
    ]


def test_sources_and_targets_of_t5_are_those_of_transformers():
    sources, targets = draw_texts(5), draw_texts(6, longest=5)
    rows, num_cut = make_source_encoder(CONFIG, ours("t5"), ())(make_pairs(sources, targets), 0)
    tokenize = theirs("t5")
    expected = tokenize(sources, truncation=True, max_length=32)["input_ids"]
    expected_targets = tokenize(text_target=targets, truncation=True, max_length=8)["input_ids"]
    for row, (ids, target_ids) in enumerate(zip(expected, expected_targets, strict=True)):
        np.testing.assert_array_equal(rows["tokens"][row, : rows["length"][row]], ids)
        np.testing.assert_array_equal(rows["target"][row, : rows["target_length"][row]], target_ids)
    is_cut = [
        len(tokenize(source)["input_ids"]) > 32 or len(tokenize(target)["input_ids"]) > 8
        for source, target in zip(sources, targets, strict=True)
    ]
    assert num_cut == sum(is_cut) > 0


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_prompt_is_cut_alike_however_long_its_target_is(kind):
    tokenizer = ours(kind)
    sources = draw_texts(7)
    encode = make_prompt_encoder(CONFIG, tokenizer, ())
    short, _ = encode(make_pairs(sources, ["a"] * len(sources)), 0)
    long, num_cut = encode(make_pairs(sources, [TEXT] * len(sources)), 0)
    none, _ = encode([e._replace(wanted=None) for e in make_pairs(sources, sources)], 0)
    prompter = make_prompter(tokenizer, CONFIG.separator, markup=True)
    prompter.enable_truncation(32 + 1 - 8)
    for row, source in enumerate(sources):
        prompt = prompter.encode(source).ids
        for rows in (short, long, none):
            assert rows["prompt_length"][row] == len(prompt)
            np.testing.assert_array_equal(rows["tokens"][row, : len(prompt)], prompt)
    assert (long["length"] - long["prompt_length"] == 8).all()
    assert num_cut == len(sources)
    np.testing.assert_array_equal(none["length"], none["prompt_length"])
    ends = long["tokens"][np.arange(len(sources)), long["length"] - 1]
    assert (ends == tokenizer.closing_id).all()


def test_a_target_as_long_as_the_row_is_refused():
    config = DataConfig(sequence_length=32, target_length=32)
    with pytest.raises(
        ValueError, match=r"^data.target_length=32 leaves no room for a prompt and its separator"
    ):
        make_prompt_encoder(config, ours("gpt2"), ())


def test_a_source_may_be_shorter_than_its_target():
    config = DataConfig(sequence_length=8, target_length=64)
    rows, _ = make_source_encoder(config, ours("t5"), ())(make_pairs(["fox"], [TEXT]), 0)
    assert rows["length"][0] <= 8 < rows["target_length"][0] <= 64

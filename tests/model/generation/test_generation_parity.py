"""Greedy decoding and beam search write what transformers writes, token for token."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from flaxmill.model import GenerationConfig, Generator, load_huggingface

pytestmark = pytest.mark.slow

NUM_PROMPTS, NEW_TOKENS = 20, 12
# The weights are so large that texts do not repeat one token, and differ from prompt to prompt.
LIVELY = {
    "gpt2": {"initializer_range": 0.3},
    "gpt_neo": {"initializer_range": 0.3},
    "llama": {"initializer_range": 0.3},
    "t5": {"initializer_factor": 3.0},
    "marian": {"init_std": 0.3},
}


class Pair(NamedTuple):
    """The same model and prompts on both sides."""

    ours: Generator
    theirs: Any
    prompts: list[list[int]]
    forced_end: bool


@pytest.fixture(scope="module", params=LIVELY)
def pair(request, torch_reference):
    directory, theirs = torch_reference(request.param, **LIVELY[request.param])
    random = np.random.default_rng(0)
    prompts = [random.integers(3, 100, random.integers(1, 20)).tolist() for _ in range(NUM_PROMPTS)]
    forced = theirs.generation_config.forced_eos_token_id is not None
    return Pair(Generator(*load_huggingface(directory)), theirs, prompts, forced)


def _reference(pair: Pair, ends: tuple[int, ...], **settings: Any) -> list[list[int]]:
    """What transformers writes for the prompts in one batch, up to the end tokens."""
    import torch

    longest, is_pair = max(map(len, pair.prompts)), pair.theirs.config.is_encoder_decoder
    tokens, mask = torch.zeros((2, NUM_PROMPTS, longest), dtype=torch.long)
    for row, prompt in enumerate(pair.prompts):
        places = slice(0, len(prompt)) if is_pair else slice(longest - len(prompt), longest)
        tokens[row, places], mask[row, places] = torch.tensor(prompt), 1
    with torch.no_grad():
        written = pair.theirs.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=list(ends),
            forced_eos_token_id=list(ends) if pair.forced_end else None,
            **settings,
        )
    new = written[:, 1 if is_pair else longest :].tolist()
    lengths = [next((n for n, token in enumerate(row, 1) if token in ends), NEW_TOKENS) for row in new]
    return [row[:length] for row, length in zip(new, lengths, strict=True)]


def _ends(pair: Pair) -> tuple[int, ...]:
    """Two tokens that the model likes, so that texts end at different lengths; one if an end is forced, since
    two forced ones are equally likely."""
    texts = pair.ours.generate(pair.prompts, GenerationConfig(max_new_tokens=NEW_TOKENS, end_ids=()))
    counts = np.bincount([token for text in texts for token in text[3:]], minlength=101)
    return tuple(int(token) for token in np.argsort(-counts)[2 : 3 if pair.forced_end else 4])


def test_greedy_texts_equal_those_of_transformers(pair):
    ends = _ends(pair)
    options = GenerationConfig(max_new_tokens=NEW_TOKENS, end_ids=ends, forced_end=pair.forced_end)
    texts = pair.ours.generate(pair.prompts, options)
    assert texts == _reference(pair, ends)
    assert len({len(text) for text in texts}) > 1, "the test shall see texts that end"
    assert len({tuple(text) for text in texts}) > NUM_PROMPTS // 2


def test_a_penalty_on_repetition_is_that_of_transformers(pair):
    ends = _ends(pair)
    options = GenerationConfig(
        max_new_tokens=NEW_TOKENS, repetition_penalty=1.5, end_ids=ends, forced_end=pair.forced_end
    )
    assert pair.ours.generate(pair.prompts, options) == _reference(pair, ends, repetition_penalty=1.5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        (
            {"length_penalty": 2.0, "early_stopping": "never"},
            {"length_penalty": 2.0, "early_stopping": "never"},
        ),
        (
            {"length_penalty": -1.0, "early_stopping": "first"},
            {"length_penalty": -1.0, "early_stopping": True},
        ),
    ],
    ids=["as_it_is", "long", "short"],
)
def test_beams_equal_those_of_transformers(pair, ours, theirs):
    ends = _ends(pair)
    options = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        num_beams=4,
        num_samples=2,
        end_ids=ends,
        forced_end=pair.forced_end,
        **ours,
    )
    reference = _reference(pair, ends, num_beams=4, num_return_sequences=2, **theirs)
    assert pair.ours.generate(pair.prompts, options) == reference

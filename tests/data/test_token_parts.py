"""A part of the tokens of rows is what the whole rows have there, whatever is drawn for them."""

import tracemalloc

import numpy as np
import pytest
from chats import write_jsonl
from task_files import TASKS, has_encoder, objective_of, write_task

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.sharding.placement import has_tokens

TEXTS = {
    "causal": ("causal", {}),
    "infilled": ("causal", {"fim_rate": 0.7}),
    "whole documents": ("causal", {"packing": "best_fit"}),
    "masked": ("mlm", {}),
    "masked spans": ("mlm", {"masking": "spans"}),
    "sentence pairs": ("mlm_nsp", {"tokenizer": "wordpiece", "vocab_size": 300}),
    "hybrid": ("hybrid", {}),
    "prefix": ("prefix_lm", {}),
    "conversation": ("conversation", {}),
}
ROWS = 16


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    turns = [
        {"role": "user", "content": "Say red."},
        {"role": "assistant", "content": "red, and red again"},
    ]
    conversations = [turns * (1 + number % 3) for number in range(200)]
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", *conversations)


@pytest.fixture
def open_batches(cache):
    def open_(config, objective, split, encoder=False) -> Batches:
        dataset = prepare(config, objective, cache=cache, log=lambda line: None, has_encoder=encoder)
        return Batches(dataset, split, config=config, objective=objective, batch_size=ROWS, seed=3)

    return open_


def assert_parts_are_of_the_rows(batches: Batches) -> None:
    """Of a batch in the middle, and of the last one, whose rows may be beyond the end of a held-out split."""
    size = batches.num_tokens
    ranges = [range(0, 3), range(3, size // 2), range(size // 2, size - 1), range(size - 1, size)]
    for step in (batches.num_batches // 2, batches.num_batches - 1):
        whole = batches.batch(step)
        parts = batches.parts(step, 2, ROWS, ranges)
        for name, values in whole.items():
            split = has_tokens(name, values.ndim)
            for part, tokens in zip(parts, ranges, strict=True):
                expected = values[2:, tokens.start : tokens.stop] if split else values[2:]
                np.testing.assert_array_equal(part[name], expected, err_msg=f"{name} of {tokens}")
                assert part[name].dtype == values.dtype
        assert all(part.keys() == whole.keys() for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("kind", TEXTS)
def test_parts_of_text(kind, split, corpus, chats, open_batches):
    objective, fields = TEXTS[kind]
    file = chats if objective == "conversation" else corpus
    common = {"files": (str(file),), "documents": "blank_lines", "tokenizer": "bytes"}
    config = DataConfig(**common | {"sequence_length": 84} | fields)
    assert_parts_are_of_the_rows(open_batches(config, objective, split))


@pytest.mark.parametrize("task", [task for task in TASKS if not has_encoder(task)])
def test_parts_of_examples(task, tmp_path, open_batches):
    config = write_task(tmp_path, task)
    for split in ("train", "valid"):
        assert_parts_are_of_the_rows(open_batches(config, objective_of(task), split))


def test_an_eighth_of_the_tokens_takes_a_fraction_of_the_memory(corpus, open_batches):
    config = DataConfig(files=(str(corpus),), tokenizer="bytes", sequence_length=16384)
    batches = open_batches(config, "causal", "train")

    def peak(*tokens: range) -> int:
        batches.parts(0, 0, ROWS, tokens)  # opens the files
        tracemalloc.start()
        batches.parts(0, 0, ROWS, tokens)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # As zigzag has them. The stored rows are read whole: 2 bytes a token and a bit, where a batch has 24.
    assert peak(range(1024, 2048), range(14336, 15360)) < peak(range(16384)) / 4

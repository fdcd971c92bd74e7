"""The examples inside the running Python as rows with their splits, like the rows of a file."""

import functools
import platform

from flaxmill.data.config import DataConfig
from flaxmill.data.embedded_tasks.tasks import embedded_examples
from flaxmill.data.files.rows import Row
from flaxmill.data.objectives import examples_of
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text.held_out import Split

SplitRow = tuple[Split, Row]


def choose_embedded(config: DataConfig, objective: str) -> str:
    """The examples that data.embedded names, or else the examples that suit the objective.

    Raises:
      ValueError: the objective cannot learn from them.
    """
    known = examples_of(objective).embedded
    if config.embedded == "all":
        return "pairs" if config.pair_column is not None and "pairs" in known else known[0]
    if config.embedded not in known:
        raise ValueError(
            f"data.embedded={config.embedded} holds nothing that objective={objective} learns from; "
            f"use {' or '.join(known)}, or give data.files"
        )
    return config.embedded


@functools.cache
def embedded_rows(task: str) -> tuple[SplitRow, ...]:
    """All rows, kept since a cold start reads them for the labels, the tokenizer and the rows."""
    name = f"data.embedded={task}"
    examples = enumerate(embedded_examples(task), start=1)
    return tuple((example["split"], Row(example, f"example {number}", name)) for number, example in examples)


def embedded_inventory(task: str) -> tuple[list[list], int]:
    """(inventory, bytes) of the rows' sources. Raises ValueError where this Python has no sources."""
    sources = embedded_corpus("all")
    return [[platform.python_version(), task], *sources.inventory[1:]], sources.num_bytes

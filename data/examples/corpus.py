"""Streams labelled examples with their splits, and finds the labels, for which all of them must be read."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.embedded_rows import choose_embedded, embedded_inventory, embedded_rows
from flaxmill.data.examples.example import Example, make_examples
from flaxmill.data.examples.reading import find_examples
from flaxmill.data.files.sources import InputSources, Log
from flaxmill.data.messages import did_you_mean, shorten
from flaxmill.data.objectives import examples_of, has_labels
from flaxmill.data.text.documents import Document
from flaxmill.data.text.held_out import Split, SplitCorpus, draw_split, say_nothing, split_sources

# The most labels that an error lists; nobody would read more.
_MAX_LABELS_SHOWN = 20
_MAX_DIGITS = 4000
# So many examples of a source are read before anything else: a mistake in them is then the only output.
_MOST_CHECKED = 1000


class ExampleCorpus(NamedTuple):
    """Examples and their held-out part; `examples` streams (split, example) in a fixed order, and `check`
    reads the first examples of each source."""

    name: str
    inventory: dict[str, list]
    num_bytes: int
    examples: Callable[[], Iterator[tuple[Split, Example]]]
    check: Callable[[], None] = lambda: None


def split_examples(config: DataConfig, objective: str, log: Log = say_nothing) -> ExampleCorpus:
    """The config's examples with their splits. Raises ValueError for missing files; bad rows raise when
    they are streamed."""
    if not config.files:
        return _embedded_corpus(config, objective)
    train = find_examples(config, "files", objective, log)
    valid = find_examples(config, "valid_files", objective, log) if config.valid_files else None
    named = split_sources(train, valid, log)

    def refuse(only: Example) -> Iterator[tuple[Split, Example]]:
        raise ValueError(f"{named.name} has 1 example, none to hold out; give more, or data.valid_files")

    def stream() -> Iterator[tuple[Split, Example]]:
        if named.valid is None:
            read = lambda: _require_examples(named.train(), config, objective)  # noqa: E731
            yield from draw_split(read, config, split_one=refuse)
            return
        for example in _require_examples(named.train(), config, objective):
            yield "train", example
        for example in _require_examples(named.valid, config, objective):
            yield "valid", example

    def check() -> None:
        next(stream(), None)
        for sources in (named.train(), *([named.valid] if named.valid else ())):
            next(_require_examples(sources, config, objective))
            for source in sources.sources:
                for _ in itertools.islice(make_examples(source.read(), config, objective), _MOST_CHECKED):
                    pass

    return ExampleCorpus(named.name, named.inventory, named.num_bytes, stream, check)


def read_examples(config: DataConfig, objective: str, split: Split) -> Iterator[Example]:
    """The examples of a split in order: the n-th is number n of `example_numbers` in batches."""
    if split == "valid" and config.valid_files:  # without reading the training examples
        files = find_examples(config, "valid_files", objective, say_nothing)
        yield from _require_examples(files, config, objective)
        return
    for its_split, example in split_examples(config, objective).examples():
        if its_split == split:
            yield example


def find_labels(config: DataConfig, objective: str, corpus: ExampleCorpus) -> tuple[str, ...]:
    """The categories in the order of their numbers; () if labels are numbers, or the task has none.

    They are data.labels, else the labels of all examples in data.files, held-out ones included. Whole numbers
    are sorted as numbers, anything else as text. Raises ValueError where there are fewer than two.
    """
    if not has_labels(config, objective) or config.labels:
        return config.labels
    if config.label_column is None:
        raise ValueError(
            "data.label_column=None leaves the labels unknown; name the column, or give data.labels"
        )
    found: dict[str, None] = {}
    for split, example in corpus.examples():
        if split == "valid" and config.valid_files:
            break  # the training examples are over
        for label in [example.wanted] if isinstance(example.wanted, str) else example.wanted:
            found[label] = None
    if len(found) < 2:
        what = f"one label, {next(iter(found))!r}" if found else "no label"
        raise ValueError(
            f"data.label_column={config.label_column!r} of {corpus.name} holds {what}; a classifier needs "
            "examples of two or more"
        )
    return tuple(sorted(found, key=_as_number if all(map(_is_whole, found)) else None))


def number_labels(labels: tuple[str, ...]) -> Callable[[str, str], int]:
    """A function from a label and the place of its row to the label's number.

    It raises ValueError for a label that is not one of them.
    """
    numbers = {label: number for number, label in enumerate(labels)}

    def number_of(label: str, place: str) -> int:
        if label not in numbers:
            raise ValueError(
                f"{place}: the label {label!r:.60} is unknown; known are {shorten(labels, _MAX_LABELS_SHOWN)}"
                f"; {did_you_mean(label, labels) or 'correct it, or name it in data.labels'}"
            )
        return numbers[label]

    return number_of


def as_documents(corpus: ExampleCorpus, objective: str) -> SplitCorpus:
    """The examples' texts, and their targets, as documents: what a tokenizer is trained on."""

    writes_text = examples_of(objective).writes_text

    def stream() -> Iterator[tuple[Split, Document]]:
        for split, example in corpus.examples():
            target = [example.wanted] if writes_text and example.wanted is not None else []
            yield split, Document("\n".join([*example.texts, *target]), "lines")

    return SplitCorpus(corpus.name, corpus.inventory, corpus.num_bytes, stream)


def canonical_example(split: Split, example: Example) -> bytes:
    """The bytes that a fingerprint hashes: equal for equal examples, wherever these are."""
    return json.dumps([split, example.texts, example.wanted], ensure_ascii=False).encode()


def _embedded_corpus(config: DataConfig, objective: str) -> ExampleCorpus:
    task = choose_embedded(config, objective)
    inventory, num_bytes = embedded_inventory(task)

    def stream() -> Iterator[tuple[Split, Example]]:
        splits, rows = zip(*embedded_rows(task), strict=True)
        yield from zip(splits, make_examples(iter(rows), config, objective), strict=True)

    return ExampleCorpus(f"data.embedded={task}", {"embedded": inventory}, num_bytes, stream)


def _require_examples(sources: InputSources, config: DataConfig, objective: str) -> Iterator[Example]:
    examples = make_examples(sources.read(), config, objective)
    first = next(examples, None)
    if first is None:
        raise ValueError(f"{sources.name} holds no examples; give files with at least one row")
    return itertools.chain([first], examples)


def _is_whole(label: str) -> bool:
    # Python reads no more than 4,300 digits.
    return len(label) <= _MAX_DIGITS and label.removeprefix("-").isdecimal()


def _as_number(label: str) -> tuple[int, str]:
    return int(label), label

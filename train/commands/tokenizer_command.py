"""`flaxmill tokenizer`: trains a tokenizer, shows one, and compares several on the same text."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flaxmill.data.config import DataConfig
from flaxmill.data.files.local_paths import local_path
from flaxmill.data.json_text import dump_json
from flaxmill.data.messages import did_you_mean
from flaxmill.train.overrides import override

if TYPE_CHECKING:
    from flaxmill.data.tokenization import Tokenizer
    from flaxmill.data.vocabulary.measuring import Measures

Arguments = TypeVar("Arguments")

SUMMARIES = {
    "train": "Trains a tokenizer on FILES, or on the training text of --config, and writes --output.",
    "show": "Describes a tokenizer and the objectives that it serves; cuts TEXT into its pieces.",
    "compare": "Measures tokenizers on the same documents: length, exactness, speed.",
}
USAGES = {
    "train": "[FILES...] --output DIR",
    "show": "TOKENIZER [TEXT]",
    "compare": "TOKENIZER TOKENIZER...",
}
USAGE = """usage: flaxmill tokenizer train|show|compare ...

  train    {train}
  show     {show}
  compare  {compare}

`flaxmill tokenizer train --help` (show, compare) lists the fields."""
COLUMNS = ("size", "tokens/word", "bytes/token", "unknown", "exact", "MB/s a core", "used")
MAX_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """What `flaxmill tokenizer show` takes."""

    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """What `flaxmill tokenizer compare` takes."""

    files: tuple[str, ...] = ()
    """Files or globs of text, as data.files; empty: the corpus embedded in the running Python."""
    text_column: str = "text"
    """Tables: the column of the text."""
    sample_bytes: int = 4_000_000
    """The most text that is measured; of more, documents are drawn."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes={self.sample_bytes} must be at least 1")


def run(arguments: list[str]) -> None:
    """Run `flaxmill tokenizer ACTION`."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action in ("--help", "-h"):
        print(USAGE.format(**SUMMARIES))
    elif action == "train":
        from flaxmill.train.commands.tokenizer_training import train

        train(rest)
    elif action == "show":
        _show(rest)
    elif action == "compare":
        _compare(rest)
    else:
        what = (
            f"unknown action {action!r}; {did_you_mean(action, list(SUMMARIES))}" if action else "no action;"
        )
        raise ValueError(f"{what.rstrip()} use train, show or compare (`flaxmill tokenizer --help` explains)")


def take_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes before the first flag, and the flags."""
    first_flag = next((i for i, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    return list(arguments[:first_flag]), list(arguments[first_flag:])


def override_arguments(action: str, default: Arguments, flags: list[str]) -> Arguments:
    """`default` with the flags of an action."""
    program = f"flaxmill tokenizer {action}"
    return override(default, flags, program=program, usage=USAGES[action], description=SUMMARIES[action])


def log(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def load(name: str) -> "Tokenizer":
    """The tokenizer of a file or directory."""
    from flaxmill.data.config import TRAINED
    from flaxmill.data.vocabulary.training import load_tokenizer

    if name in TRAINED and not Path(name).exists():
        raise ValueError(
            f"{name} is a kind, trained on text; make one with `flaxmill tokenizer train FILES --kind {name} "
            "--output DIR`, and give DIR"
        )
    return load_tokenizer(DataConfig(tokenizer=str(local_path(name, "TOKENIZER"))), log)


def _show(arguments: list[str]) -> None:
    words, flags = take_words(arguments)
    parsed = override_arguments("show", ShowArguments(), flags)
    if not 1 <= len(words) <= 2:
        raise ValueError(
            f"TOKENIZER and, if wanted, one TEXT in quotes come first, {len(words) or 'none'} given: "
            "flaxmill tokenizer show TOKENIZER [TEXT]"
        )
    from flaxmill.data.vocabulary.description import (
        describe_pieces,
        describe_tokenizer,
        format_description,
        format_pieces,
    )

    tokenizer = load(words[0])
    described = describe_tokenizer(tokenizer)
    pieces = describe_pieces(tokenizer, words[1]) if len(words) == 2 else None
    if parsed.json:
        print(dump_json(described | ({} if pieces is None else {"pieces": pieces})))
        return
    lines = format_description(described)
    print("\n".join(lines if pieces is None else [*lines, "", *format_pieces(tokenizer, pieces)]))


def _compare(arguments: list[str]) -> None:
    names, flags = take_words(arguments)
    parsed = override_arguments("compare", CompareArguments(), flags)
    if not names:
        raise ValueError(
            "no tokenizer given; they come first: flaxmill tokenizer compare TOKENIZER TOKENIZER..."
        )
    from flaxmill.data.text.held_out import read_documents
    from flaxmill.data.vocabulary.measuring import measure_tokenizer
    from flaxmill.data.vocabulary.sample import draw_documents
    from flaxmill.data.vocabulary.unknown import judge_unknown

    tokenizers = {name: load(name) for name in names}
    config = DataConfig(files=parsed.files, text_column=parsed.text_column)
    texts = [document.text for document in draw_documents(read_documents(config, log), parsed.sample_bytes)]
    measured = {name: measure_tokenizer(tokenizer, texts) for name, tokenizer in tokenizers.items()}
    print_measures = _print_json if parsed.json else _print_table
    print_measures({name: measures for name, (measures, _) in measured.items()})
    for name, (_, unknown) in measured.items():
        judge_unknown(unknown, tokenizers[name], name, log)


def _print_json(measured: "dict[str, Measures]") -> None:
    print(dump_json({"tokenizers": {name: measures._asdict() for name, measures in measured.items()}}))


def _print_table(measured: "dict[str, Measures]") -> None:
    first = next(iter(measured.values()))
    print(f"{first.num_documents:,} documents, {first.num_bytes:,} bytes")
    width = min(MAX_SHOWN, max(len(name) for name in measured))
    print(f"{'':{width}}" + "".join(f"  {column:>11}" for column in COLUMNS))
    for name, measures in measured.items():
        cells = _cells(measures)
        print(f"{name[-width:]:{width}}" + "".join(f"  {cell:>11}" for cell in cells))
    for name, measures in measured.items():
        if measures.first_difference is not None:
            read, decoded = (json.dumps(text, ensure_ascii=False) for text in measures.first_difference)
            print(f"{name} does not give back {read}, but {decoded}")


def _cells(measures: "Measures") -> tuple[Any, ...]:
    return (
        f"{measures.vocab_size:,}",
        f"{measures.tokens_per_word:.3f}",
        f"{measures.bytes_per_token:.3f}",
        f"{measures.unknown_share:.2%}",
        f"{measures.exact_share:.1%}",
        f"{measures.megabytes_per_second:.2f}",
        f"{measures.used_share:.1%}",
    )

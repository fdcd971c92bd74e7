"""What is read and how it is cut: the settings of tokenizing, packing, pairing and masking."""

from dataclasses import dataclass
from typing import Literal, get_args

Objective = Literal["causal", "mlm", "mlm_nsp", "hybrid"]
Documents = Literal["files", "blank_lines"]
Embedded = Literal["all", "prose", "code"]

# [CLS] A [SEP] B [SEP] with the shortest short pair (2 pieces) fits in this, and little less would be a row.
MIN_SEQUENCE_LENGTH = 8
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The corpus, its tokenizer and the shape of its rows; a value that no run could use is a ValueError."""

    files: tuple[str, ...] = ()
    """Text files or globs; empty: the corpus embedded in the running Python."""
    valid_files: tuple[str, ...] = ()
    """Held-out text; empty: a share of the documents of `files`."""
    valid_fraction: float = 0.05
    """Share of the documents that is held out where there are no valid_files."""
    documents: Documents = "files"
    """files: a file is a document, a long one is cut to pieces of at most 32 KiB; blank_lines: Google
    BERT's format, one sentence a line and a blank line after each document."""
    embedded: Embedded = "all"
    """Which part of the embedded corpus: its documentation, its source code, or both."""
    tokenizer: str = "bpe"
    """bpe, wordpiece, bytes, or the path of a tokenizer.json or vocab.txt."""
    vocab_size: int = 2048
    """What a trained tokenizer aims at; a loaded one has the size it has."""
    sequence_length: int = 128
    """Tokens of a row."""
    mask_rate: float = 0.15
    """Share of a row's tokens to predict, where words are masked."""
    causal_fraction: float = 0.5
    """Share of the rows trained causally, where the objective is the hybrid."""
    pair_copies: int = 4
    """Sentence pairs: plans cut from each document; epoch e reads plan e mod pair_copies."""
    short_pair_probability: float = 0.1
    """Sentence pairs: how often a pair is cut short on purpose, as BERT's are."""
    seed: int = 0
    """Draws held-out documents and pair plans; the order of rows and the masks follow the run's seed."""

    def __post_init__(self):
        _require_choice("documents", self.documents, get_args(Documents))
        _require_choice("embedded", self.embedded, get_args(Embedded))
        if not self.tokenizer:
            raise ValueError("data.tokenizer='' names no tokenizer; use bpe, wordpiece, bytes or a path")
        for field in ("files", "valid_files"):
            if isinstance(value := getattr(self, field), str):
                raise ValueError(f"data.{field}={value!r} is a string; write a tuple, ({value!r},)")
        if self.valid_files and not self.files:
            raise ValueError(
                f"data.valid_files={self.valid_files!r} needs training text beside it; set data.files as well"
            )
        _require_range("valid_fraction", self.valid_fraction, 1e-6, 0.9)
        _require_range("mask_rate", self.mask_rate, 0.0, 1.0, open_ends=True)
        _require_range("causal_fraction", self.causal_fraction, 0.0, 1.0)
        _require_range("short_pair_probability", self.short_pair_probability, 0.0, 1.0)
        _require_least("vocab_size", self.vocab_size, 1)
        _require_least("sequence_length", self.sequence_length, MIN_SEQUENCE_LENGTH)
        _require_least("pair_copies", self.pair_copies, 1)
        _require_least("seed", self.seed, 0)
        if self.seed > MAX_SEED:
            raise ValueError(f"data.seed={self.seed} is above {MAX_SEED}; use that or less")


def _require_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"data.{field}={value!r} is not one of {', '.join(choices)}; use one of them")


def _require_range(field: str, value: float, low: float, high: float, open_ends: bool = False) -> None:
    inside = low < value < high if open_ends else low <= value <= high
    if not inside:
        words = "strictly between" if open_ends else "between"
        raise ValueError(
            f"data.{field}={value!r} is not {words} {low:g} and {high:g}; choose a value in that range"
        )


def _require_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"data.{field}={value!r} is below {least}; use {least} or more")

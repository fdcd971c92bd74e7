"""The settings of the data: what is read, and how it is tokenized, packed, paired and masked."""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from flaxmill.data.source import check_sources

Layout = Literal[
    "packed",
    "conversations",
    "pairs",
    "labelled",
    "tagged",
    "answers",
    "sources",
    "prompts",
    "preferences",
    "matches",
]
"""How rows are stored (data/prepared/layouts.py)."""
LabelType = Literal["category", "number", "multi_label"]
Quotes = Literal["double", "none"]
Documents = Literal["files", "blank_lines"]
BadRows = Literal["error", "skip"]
Duplicates = Literal["keep", "report", "drop_exact", "drop_near"]
TokenType = Literal["uint16", "uint32"]
Framing = Literal["template", "end", "spelled"]
Masking = Literal["tokens", "whole_words", "spans", "ngrams"]
PairTask = Literal["next", "order"]
Packing = Literal["concatenate", "best_fit", "first_fit", "full_sentences"]
EmbeddedText = Literal["all", "prose", "code"]
EmbeddedTask = Literal[
    "classification",
    "areas",
    "pairs",
    "answers",
    "tags",
    "summaries",
    "translation",
    "conversations",
    "preferences",
    "matches",
]

TRAINED = ("bpe", "wordpiece", "unigram", "bytes")
"""Tokenizers that are trained on the data; any other is a path."""

SENTENCE_RULES = "rules"
"""Sentences by a few rules; any other value of data.sentences is the code of a language."""

# [CLS] A [SEP] B [SEP] with the shortest short pair (2 pieces) fits in this; hardly any shorter row would do.
MIN_SEQUENCE_LENGTH = 8
# One token and the end token.
MIN_TARGET_LENGTH = 2
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The corpus, its tokenizer and the shape of its rows; a value that no run could use is a ValueError."""

    files: tuple[str, ...] = ()
    """Files, globs or directories; empty: the corpus embedded in the running Python, or examples made from
    it. Text comes from text files, from tables: .csv, .tsv, .jsonl, .json, .parquet, .arrow, from tfds:NAME,
    datasets saved by Hugging Face's save_to_disk, embedded:PART and files of token ids: .bin, .npy; files may
    be at gs:// or s3://. Labelled examples come from tables, .conll, SQuAD's .json, tfds:NAME, or saved
    datasets. Text and tables may be .gz, .bz2, .xz or .zst."""
    valid_files: tuple[str, ...] = ()
    """Held-out text or examples; empty: a share of `files` is held out."""
    sources: tuple[str, ...] = ()
    """Text from several sources in place of `files`, each as NAME=WEIGHT:FILES (see docs/mixtures.md)."""
    valid_sources: tuple[str, ...] = ()
    """Further held-out text, NAME:FILES each, evaluated apart as eval_loss/NAME."""
    source_changes: tuple[str, ...] = ()
    """Other weights from a step on, STEP:NAME=WEIGHT,NAME=WEIGHT each."""
    mix_temperature: float | None = None
    """None: weights are shares of the rows. T: they are multiplied by a source's size to the power 1/T; 1
    mixes the sources in proportion to their sizes."""
    valid_fraction: float = 0.05
    """Share of the documents or examples that is held out if there are no valid_files."""
    text_column: str = "text"
    """Tables: the column of the text, of token ids, of the list of words, or of a seq2seq source.
    Conversations: the column of the messages; left as it is, messages, conversations or Alpaca's columns."""
    pair_column: str | None = None
    """Classification: the column of a second text; None: there is one text."""
    label_column: str | None = "label"
    """The column of the label, or of the list of tags; None: unknown, for prediction."""
    target_column: str | None = "target"
    """Seq2seq: the column of the text to write; None: unknown, for prediction."""
    label_type: LabelType = "category"
    """category: a label is one of a set of strings; number: it is a number to predict (regression);
    multi_label: a list of any of these strings, which may be empty; CSV and TSV put | between two."""
    labels: tuple[str, ...] = ()
    """The categories in the order of their numbers; empty: the categories found in `files`, sorted."""
    class_weights: tuple[float, ...] = ()
    """Classification: the weight in the loss of each label's examples, in the order of `labels`; empty: 1."""
    quotes: Quotes = "double"
    """CSV and TSV: double: double quotes may enclose a field; none: they are text, as in GLUE's files."""
    documents: Documents = "files"
    """files: a file is a document, a long one is cut into pieces of at most 32 KiB; blank_lines: Google
    BERT's format, one sentence a line and a blank line after each document."""
    sentences: str = SENTENCE_RULES
    """How prose is split where rows are made of sentences. rules: a few rules for English; the code of a
    language, such as en, de or zh: by the library sentencex, which knows abbreviations, quotes and lists."""
    bad_rows: BadRows = "error"
    """Text: a row that cannot be read, such as broken JSON or bytes that are not UTF-8, is an error that
    names its place, or is skipped and counted."""
    duplicates: Duplicates = "keep"
    """Text: documents that equal another one. keep: all are kept, and equal ones are counted; report: near
    duplicates are counted too, by MinHash; drop_exact: all but one of equal documents are dropped; drop_near:
    near duplicates are dropped as well."""
    token_dtype: TokenType = "uint16"
    """The type of the token ids in a raw .bin; other files of ids say it themselves."""
    embedded: EmbeddedText | EmbeddedTask = "all"
    """The part of the embedded corpus that is read: its documentation, its source code, or both. For examples
    made from it, all means the first kind that the objective learns from."""
    tokenizer: str = "bpe"
    """bpe, wordpiece, unigram, bytes, or the path of a tokenizer.json, vocab.txt, vocab.json with merges.txt
    or SentencePiece model, or of the directory that holds one."""
    vocab_size: int = 2048
    """The size that a trained tokenizer aims at; a loaded one keeps its own size."""
    framing: Framing = "template"
    """What is put around a document of text. template: what the tokenizer's own template puts there, such as
    LLaMA's <s>, and an end token; end: the end token alone; spelled: as end, but the tokens' spelling tells
    their roles, as in version 0.1.0."""
    markup: bool | None = None
    """Whether a special token that a text spells is read as that token. None: it is in labelled examples, as
    in transformers, and is not in text, where it could end a document."""
    sequence_length: int = 128
    """Tokens of a row. DPO: of both answers of a pair together, each with its prompt; contrastive: of both
    texts of a pair."""
    packing: Packing = "concatenate"
    """Rows of text. concatenate: documents end to end, cut at the row's length; best_fit, first_fit: whole
    documents, cut only where longer than a row, and padding; full_sentences: documents end to end, but a row
    ends where a sentence ends, as RoBERTa's do, and padding."""
    target_length: int = 64
    """Seq2seq: the most tokens of a target, its end token included."""
    stride: int = 64
    """Question answering: tokens that neighbouring windows over a long context share."""
    separator: str = "\n"
    """What is put between prompt and target, and between the texts of a pair, if the tokenizer has no
    template of its own: a special token's name, or text."""
    mask_rate: float = 0.15
    """Share of a row's tokens to predict, where words are masked or spans corrupted."""
    masking: Masking = "tokens"
    """What is masked at once. tokens: single tokens, as in BERT; whole_words: all pieces of a word; spans: up
    to 10 words, as in SpanBERT; ngrams: up to 3 words, as in ALBERT."""
    mean_span_length: float = 3.0
    """Span corruption: tokens of a corrupted span, on average."""
    fim_rate: float = 0.0
    """Causal: how often a document's middle is moved behind what surrounds it (fill-in-the-middle)."""
    causal_fraction: float = 0.5
    """Hybrid: the share of the rows that are trained causally."""
    pair_task: PairTask = "next"
    """Sentence pairs. next: whether B follows A or is random, as in BERT; order: whether two neighbours have
    been swapped, as in ALBERT."""
    pair_copies: int = 4
    """Sentence pairs: plans cut from each document; epoch e reads plan e mod pair_copies."""
    static_masks: bool = False
    """Draw masks once for each of pair_copies copies of a row: epoch e sees copy e mod pair_copies, as if
    they had been written once, which is BERT's procedure with dupe_factor; False: each epoch draws anew."""
    short_pair_probability: float = 0.1
    """Sentence pairs: how often a pair is cut short on purpose, as BERT's are."""
    seed: int = 0
    """Draws held-out documents or examples, and pair plans; the order of rows and the masks follow the run's
    seed."""

    def __post_init__(self):
        _require_choice("documents", self.documents, get_args(Documents))
        _require_choice("embedded", self.embedded, (*get_args(EmbeddedText), *get_args(EmbeddedTask)))
        if not self.tokenizer:
            raise ValueError(
                "data.tokenizer='' names no tokenizer; use bpe, wordpiece, unigram, bytes or a path"
            )
        _require_choice("framing", self.framing, get_args(Framing))
        _require_choice("masking", self.masking, get_args(Masking))
        _require_choice("pair_task", self.pair_task, get_args(PairTask))
        if self.sentences != SENTENCE_RULES and not re.fullmatch("[a-z]{2,3}", self.sentences):
            raise ValueError(
                f"data.sentences={self.sentences!r} is neither {SENTENCE_RULES} nor the code of a language; "
                f"use {SENTENCE_RULES}, or a code of two or three small letters such as en, de or zh"
            )
        _require_choice("packing", self.packing, get_args(Packing))
        _require_choice("label_type", self.label_type, get_args(LabelType))
        _require_choice("quotes", self.quotes, get_args(Quotes))
        _require_choice("bad_rows", self.bad_rows, get_args(BadRows))
        _require_choice("duplicates", self.duplicates, get_args(Duplicates))
        _require_choice("token_dtype", self.token_dtype, get_args(TokenType))
        for field in ("files", "valid_files", "sources", "valid_sources", "source_changes", "labels"):
            if isinstance(value := getattr(self, field), str):
                raise ValueError(f"data.{field}={value!r} is a string; write a tuple, ({value!r},)")
        if self.valid_files and not self.files:
            raise ValueError(
                f"data.valid_files={self.valid_files!r} needs training text beside it; set data.files as well"
            )
        if self.sources and self.files:
            raise ValueError(
                f"data.sources={self.sources!r} and data.files={self.files!r} are both set; give one of them"
            )
        check_sources(self.sources, self.valid_sources, self.source_changes, self.mix_temperature)
        _check_labels(self)
        _require_range("valid_fraction", self.valid_fraction, 1e-6, 0.9)
        _require_range("mask_rate", self.mask_rate, 0.0, 1.0, open_ends=True)
        _require_range("mean_span_length", self.mean_span_length, 1.0, 1000.0)
        _require_range("fim_rate", self.fim_rate, 0.0, 1.0)
        _require_range("causal_fraction", self.causal_fraction, 0.0, 1.0)
        _require_range("short_pair_probability", self.short_pair_probability, 0.0, 1.0)
        _require_least("vocab_size", self.vocab_size, 1)
        _require_least("sequence_length", self.sequence_length, MIN_SEQUENCE_LENGTH)
        _require_least("target_length", self.target_length, MIN_TARGET_LENGTH)
        _require_least("stride", self.stride, 0)
        _require_least("pair_copies", self.pair_copies, 1)
        _require_least("seed", self.seed, 0)
        if self.seed > MAX_SEED:
            raise ValueError(f"data.seed={self.seed} is above {MAX_SEED}; use that or less")

    @property
    def reads_markup_in_text(self) -> bool:
        return self.markup is True

    @property
    def reads_markup_in_examples(self) -> bool:
        return self.markup is not False


def _check_labels(config: DataConfig) -> None:
    for field in ("text_column", "pair_column", "label_column", "target_column"):
        if getattr(config, field) == "":
            raise ValueError(f"data.{field}='' names no column; use a column's name")
    if odd := [weight for weight in config.class_weights if not 0 <= weight < math.inf]:
        raise ValueError(
            f"data.class_weights={config.class_weights!r} has {odd[0]}; use numbers of 0 or more"
        )
    if config.class_weights and config.label_type == "multi_label":
        raise ValueError(
            f"data.class_weights={config.class_weights!r} weighs examples by their only label, but with "
            "data.label_type=multi_label an example has any number of labels; leave it empty"
        )
    if config.class_weights and config.label_type == "number":
        raise ValueError(
            f"data.class_weights={config.class_weights!r} weighs categories, and data.label_type=number has "
            "none; leave it empty"
        )
    if config.labels and config.label_type == "number":
        raise ValueError(f"data.labels={config.labels!r} are categories; use data.label_type=category")
    if len(set(config.labels)) < len(config.labels):
        twice = next(label for label in config.labels if config.labels.count(label) > 1)
        raise ValueError(f"data.labels={config.labels!r} names {twice!r} twice; name each label once")


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

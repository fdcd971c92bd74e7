"""A row for each objective: what data/ must know about it. train/objectives/table.py has the rest."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from flaxmill.data.config import DataConfig, EmbeddedTask, Layout

Reference = str | Callable[..., Any]
"""A function, or its place as "module:function". The module is imported when the function is needed, so that
a config that names an objective waits for neither NumPy nor JAX."""

SpecialToken = Literal["mask", "cls", "sep", "closing"]
"""The roles of special tokens."""


TEXT_LAYOUTS: tuple[Layout, ...] = ("packed", "conversations", "pairs")
"""Layouts of text, conversations among it; the others hold labelled examples."""


class ExampleKind(NamedTuple):
    """The labelled examples that a task learns from."""

    read: Reference
    """(Row, DataConfig) -> Example: checks a row of a file."""
    column_fields: tuple[str, ...] = ()
    """Fields of DataConfig that name the columns to read."""
    columns: tuple[str, ...] = ()
    """Columns that have the same name in every file."""
    embedded: tuple[EmbeddedTask, ...] = ()
    """Examples inside the running Python that it can learn from; the first is the default."""
    has_labels: Callable[[DataConfig], bool] = lambda config: False
    """Whether it chooses among categories."""
    formats: Mapping[str, Reference] = {}
    """Suffixes that have their own reader: (DataConfig) -> the reader, and what decides how it reads."""
    writes_text: bool = False
    """Whether the answer is a text. A tokenizer is then trained on it too."""
    answer_column: str | None = "label_column"
    """The field that names the column of the answer; None: the answer is always known."""


class ObjectiveData(NamedTuple):
    """What data/ must know about an objective."""

    layouts: tuple[Layout, ...]
    """How its rows are stored. An encoder-decoder reads the first layout, any other model the last."""
    batch: Reference
    """(Rows) -> Batch: makes a batch from its stored rows, see `flaxmill.data.stored_rows.Rows`."""
    special_tokens: tuple[SpecialToken, ...] = ()
    """Roles for which the tokenizer must have a token."""
    added_tokens: tuple[str, ...] = ()
    """Names of special tokens that a trained tokenizer gets, and that a loaded one must have."""
    may_converse: bool = False
    """Whether its examples may be conversations; a loaded tokenizer then needs its added tokens only for
    these."""
    infills: bool = False
    """Whether data.fim_rate moves the middles of its documents, which needs INFILL_TOKENS as well."""
    max_predictions: Reference | None = None
    """(DataConfig) -> the most places of a row that are predicted; None: every place may be."""
    settings: Reference | None = None
    """(DataConfig) -> settings of the stored dataset that differ from its layout's own; None: none do."""
    target_length: Reference | None = None
    """(DataConfig) -> the most tokens of a target that is not a row's own next tokens; None: it has none."""
    examples: ExampleKind | None = None
    """Labelled examples; None: it reads text."""

    @property
    def reads_conversations(self) -> bool:
        """Whether its text is conversations, written by the tokenizer's chat template."""
        return "conversations" in self.layouts

    @property
    def frames_two_texts(self) -> bool:
        """Whether it puts two texts between [CLS] and [SEP]."""
        return "cls" in self.special_tokens


SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
"""T5's sentinels: the k-th stands for the k-th corrupted span of a text."""

INFILL_TOKENS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
"""What begins the parts of a document whose middle has been moved."""

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
"""What begins and ends a turn of a conversation, where the tokenizer has no chat template."""

OBJECTIVE_DATA: dict[str, ObjectiveData] = {
    "causal": ObjectiveData(("packed",), "flaxmill.data.text_batches:infilled_causal", infills=True),
    "mlm": ObjectiveData(
        ("packed",),
        "flaxmill.data.text_batches:masked",
        special_tokens=("mask",),
        max_predictions="flaxmill.data.corruption.masking:most_masked",
    ),
    "mlm_nsp": ObjectiveData(
        ("pairs",),
        "flaxmill.data.text_batches:pairs",
        special_tokens=("mask", "cls", "sep"),
        max_predictions="flaxmill.data.corruption.masking:most_masked",
    ),
    "hybrid": ObjectiveData(("packed",), "flaxmill.data.text_batches:hybrid", special_tokens=("mask",)),
    "classification": ObjectiveData(
        ("labelled",),
        "flaxmill.data.example_batches:labelled",
        examples=ExampleKind(
            "flaxmill.data.examples.example:read_labelled",
            column_fields=("text_column", "pair_column", "label_column"),
            embedded=("classification", "areas", "pairs"),
            has_labels=lambda config: config.label_type != "number",
        ),
    ),
    "token_classification": ObjectiveData(
        ("tagged",),
        "flaxmill.data.example_batches:tagged",
        examples=ExampleKind(
            "flaxmill.data.examples.example:read_tagged",
            column_fields=("text_column", "label_column"),
            embedded=("tags",),
            has_labels=lambda config: True,
            formats={".conll": "flaxmill.data.examples.reading:conll_reader"},
        ),
    ),
    "question_answering": ObjectiveData(
        ("answers",),
        "flaxmill.data.example_batches:answers",
        special_tokens=("cls", "sep"),
        examples=ExampleKind(
            "flaxmill.data.examples.example:read_question",
            columns=("question", "context", "answers"),
            embedded=("answers",),
            formats={".json": "flaxmill.data.examples.reading:squad_reader"},
            answer_column=None,
        ),
    ),
    "seq2seq": ObjectiveData(
        ("sources", "prompts"),
        "flaxmill.data.example_batches:seq2seq",
        special_tokens=("closing",),
        target_length=lambda config: config.target_length,
        examples=ExampleKind(
            "flaxmill.data.examples.example:read_target",
            column_fields=("text_column", "target_column"),
            embedded=("summaries", "translation"),
            writes_text=True,
            answer_column="target_column",
        ),
    ),
    "span_corruption": ObjectiveData(
        ("packed",),
        "flaxmill.data.corruption.span_corruption:corrupt",
        special_tokens=("closing",),
        added_tokens=SENTINELS,
        settings="flaxmill.data.corruption.span_corruption:row_settings",
        target_length="flaxmill.data.corruption.span_corruption:target_length",
    ),
    "prefix_lm": ObjectiveData(("packed",), "flaxmill.data.text_batches:prefix"),
    "conversation": ObjectiveData(
        ("conversations",), "flaxmill.data.text_batches:conversations", added_tokens=CHAT_TOKENS
    ),
    "dpo": ObjectiveData(
        ("preferences",),
        "flaxmill.data.example_batches:preferences",
        special_tokens=("closing",),
        added_tokens=CHAT_TOKENS,
        may_converse=True,
        examples=ExampleKind(
            "flaxmill.data.examples.preference_rows:read_preference",
            columns=("chosen", "rejected"),
            embedded=("preferences",),
            answer_column=None,
        ),
    ),
    "contrastive": ObjectiveData(
        ("matches",),
        "flaxmill.data.example_batches:matches",
        examples=ExampleKind(
            "flaxmill.data.examples.match_rows:read_match",
            column_fields=("text_column", "pair_column"),
            embedded=("matches",),
            answer_column=None,
        ),
    ),
}

BUILT_IN = frozenset(OBJECTIVE_DATA)
"""Objectives that every process knows; others come from a user's file."""


def data_of(objective: str) -> ObjectiveData:
    """The row of an objective. Raises ValueError if no objective has that name."""
    if objective not in OBJECTIVE_DATA:
        raise ValueError(f"objective={objective!r} is unknown; use one of {', '.join(OBJECTIVE_DATA)}")
    return OBJECTIVE_DATA[objective]


def added_tokens(objective: str, config: DataConfig) -> tuple[str, ...]:
    """Special tokens that a trained tokenizer gets, and that a loaded one must have.

    Raises ValueError if the config asks an objective to fill in middles that cannot.
    """
    data = data_of(objective)
    if config.fim_rate and not data.infills:
        able = ", ".join(name for name, its_data in OBJECTIVE_DATA.items() if its_data.infills)
        raise ValueError(
            f"data.fim_rate={config.fim_rate} moves the middles of documents, which objective={objective} "
            f"does not read; use objective={able}, or data.fim_rate=0"
        )
    return (*data.added_tokens, *(INFILL_TOKENS if config.fim_rate else ()))


def examples_of(objective: str) -> ExampleKind:
    """The labelled examples of an objective that learns from them."""
    examples = data_of(objective).examples
    assert examples is not None, f"objective={objective} reads text"
    return examples


def has_labels(config: DataConfig, objective: str) -> bool:
    """Whether the objective chooses among categories."""
    examples = data_of(objective).examples
    return examples is not None and examples.has_labels(config)


def layout_of(objective: str, has_encoder: bool = False) -> Layout:
    """The layout of the rows that an objective reads; causal, masked, hybrid and prefix rows share one
    dataset.

    Args:
      has_encoder: the model is an encoder-decoder, which matters only for seq2seq.
    """
    layouts = data_of(objective).layouts
    return layouts[0] if has_encoder else layouts[-1]


def find_function(reference: Reference) -> Callable[..., Any]:
    """The function that a row refers to."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)

"""A row for each objective: what training must know about it. data/objectives.py says what it reads.

A user's own objective is a row too; `define_objective` adds it.
"""

import functools
import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from flaxmill.data.config import Layout
from flaxmill.data.objectives import OBJECTIVE_DATA, TEXT_LAYOUTS, ObjectiveData, Reference, SpecialToken
from flaxmill.model.fields import Head


class Objective(NamedTuple):
    """What a run minimises, and what it reports. A function may be given as "module:function"."""

    data: ObjectiveData
    """What it reads: how its rows are stored, and how they become a batch."""
    head: Head
    """The head of its model."""
    terms: tuple[str, ...]
    """The terms of its loss. Each is sum(weights * nll) / sum(weights) over the whole batch."""
    sums: Reference
    """(model, batch, SumOptions) -> Sums: for each TERM the weighted sum of losses, and TERM_correct if an
    answer is right or wrong; `log_z_squared` for a loss over the vocabulary; and counts, if it has any."""
    gives_log_z: bool = False
    """Whether log_z_squared is among the sums, which `z_loss` needs."""
    causal: bool | None = False
    """Whether its model attends causally; None: either will do, and both ways is the default."""
    encoder: Literal["none", "may", "must"] = "none"
    """Whether its model may be an encoder-decoder, or must."""
    mixes_directions: bool = False
    """Whether a batch says which tokens attend causally, and which both ways."""
    reads_prefix: bool = False
    """Whether the model reads a prefix both ways: the `prefix` of a batch, or a prompt."""
    weights: Reference = "flaxmill.train.objectives.losses:place_weights"
    """(term, batch) -> [B,T], or [B] for a decision on a row: how much each counts for the term."""
    shares: Reference = "flaxmill.train.objectives.losses:whole_terms"
    """(terms, denominators) -> {term: scalar}: the share of each term in the loss."""
    counts: Reference = "flaxmill.train.objectives.losses:right_answers"
    """(terms, ModelConfig) -> {name: array}: the sums besides the terms, TERM_correct among them, in their
    shapes, with any values. What `best.metric` may name follows from them."""
    means: tuple[str, ...] = ()
    """Sums over rows that are reported beside the loss, divided by the weight of the first term."""
    compares_rows: bool = False
    """Whether the loss of a row depends on the others of its batch."""
    has_reference: bool = False
    """Whether its batches hold log-probabilities from before training (train/inference/reference.py)."""
    scores: Reference = "flaxmill.train.metrics.task_scores:counted_scores"
    """(Sums of an evaluation) -> {name: value}: what an evaluation reports besides losses."""
    predict: Reference | None = None
    """(Model, Batches, examples) -> a Prediction for each labelled example."""
    measure: Reference | None = None
    """(Experiment, examples, predictions) -> {name: value}: the scores of a task."""
    sample: Reference | None = None
    """(Experiment, params, Batches, Tokenizer, Mesh) -> a few lines to read at the end of a run."""
    file: str | None = None
    """The file that defines it; None: it is one of flaxmill's own."""
    sha256: str | None = None
    """The digest of that file."""

    @property
    def gives_vectors(self) -> bool:
        """Whether it learns a vector of each text, which no head reads."""
        return self.head == "none"

    @property
    def is_task(self) -> bool:
        """Whether it learns from labelled examples."""
        return self.data.examples is not None


_LOSSES = "flaxmill.train.objectives.losses"
_TASK_LOSSES = "flaxmill.train.objectives.task_losses"
_PREFERENCE_LOSSES = "flaxmill.train.objectives.preference_losses"
_CONTRASTIVE_LOSSES = "flaxmill.train.objectives.contrastive_losses"
_PREDICTIONS = "flaxmill.train.inference.predictions"
_EVALUATION = "flaxmill.train.inference.task_evaluation"
CONTINUATION = "flaxmill.train.inference.samples:continuation"
_FILLED_TEXT = "flaxmill.train.inference.samples:filled_text"

OBJECTIVES: dict[str, Objective] = {
    "causal": Objective(
        OBJECTIVE_DATA["causal"],
        head="lm",
        terms=("causal",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=True,
        sample=CONTINUATION,
    ),
    "mlm": Objective(
        OBJECTIVE_DATA["mlm"],
        head="mlm",
        terms=("mlm",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        sample=_FILLED_TEXT,
    ),
    "mlm_nsp": Objective(
        OBJECTIVE_DATA["mlm_nsp"],
        head="mlm_nsp",
        terms=("mlm", "nsp"),  # BERT: the sum of both (Devlin et al. 2019, A.2)
        sums=f"{_LOSSES}:masked_pair_sums",
        gives_log_z=True,
        sample=_FILLED_TEXT,
    ),
    "hybrid": Objective(
        OBJECTIVE_DATA["hybrid"],
        head="lm",
        terms=("mlm", "causal"),  # GPT-BERT: each weighs as much as its share of the rows
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=False,  # a batch says which of its rows are causal
        mixes_directions=True,
        shares=f"{_LOSSES}:shares_of_rows",
        sample=CONTINUATION,
    ),
    "classification": Objective(
        OBJECTIVE_DATA["classification"],
        head="classification",
        terms=("classification",),
        sums=f"{_TASK_LOSSES}:classification_sums",
        causal=None,
        counts=f"{_TASK_LOSSES}:class_counts",
        predict=f"{_PREDICTIONS}:predict_classes",
        measure=f"{_EVALUATION}:measure_classes",
    ),
    "token_classification": Objective(
        OBJECTIVE_DATA["token_classification"],
        head="token_classification",
        terms=("token_classification",),
        sums=f"{_TASK_LOSSES}:tag_sums",
        causal=None,
        counts=f"{_TASK_LOSSES}:class_counts",
        predict=f"{_PREDICTIONS}:predict_tags",
        measure=f"{_EVALUATION}:measure_tags",
    ),
    "question_answering": Objective(
        OBJECTIVE_DATA["question_answering"],
        head="qa",
        terms=("start", "end"),
        sums=f"{_TASK_LOSSES}:answer_sums",
        causal=None,
        shares=f"{_TASK_LOSSES}:equal_shares",  # the mean of both, as transformers has it
        predict=f"{_PREDICTIONS}:predict_answers",
        measure=f"{_EVALUATION}:measure_answers",
    ),
    "seq2seq": Objective(
        OBJECTIVE_DATA["seq2seq"],
        head="lm",
        terms=("seq2seq",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=True,
        encoder="may",
        predict=f"{_PREDICTIONS}:predict_texts",
        measure=f"{_EVALUATION}:measure_texts",
    ),
    "span_corruption": Objective(
        OBJECTIVE_DATA["span_corruption"],
        head="lm",
        terms=("span_corruption",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=True,
        encoder="must",
        sample="flaxmill.train.inference.samples:written_target",
    ),
    "prefix_lm": Objective(
        OBJECTIVE_DATA["prefix_lm"],
        head="lm",
        terms=("prefix_lm",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=True,
        mixes_directions=True,
        reads_prefix=True,
        sample=CONTINUATION,
    ),
    "conversation": Objective(
        OBJECTIVE_DATA["conversation"],
        head="lm",
        terms=("conversation",),
        sums=f"{_LOSSES}:token_sums",
        gives_log_z=True,
        causal=True,
        sample="flaxmill.train.inference.samples:answer",
    ),
    "dpo": Objective(
        OBJECTIVE_DATA["dpo"],
        head="lm",
        terms=("dpo",),
        sums=f"{_PREFERENCE_LOSSES}:dpo_sums",
        causal=True,
        weights=f"{_PREFERENCE_LOSSES}:pair_weights",
        counts=f"{_PREFERENCE_LOSSES}:no_counts",
        means=(
            *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
            *("logps/chosen", "logps/rejected"),
        ),
        has_reference=True,
        predict=f"{_PREDICTIONS}:predict_preferences",
        measure=f"{_EVALUATION}:measure_preferences",
    ),
    "contrastive": Objective(
        OBJECTIVE_DATA["contrastive"],
        head="none",
        terms=("contrastive",),
        sums=f"{_CONTRASTIVE_LOSSES}:contrastive_sums",
        causal=None,
        compares_rows=True,
        predict=f"{_PREDICTIONS}:predict_similarities",
        measure=f"{_EVALUATION}:measure_retrieval",
    ),
}
_OWN = frozenset(OBJECTIVES)


def define_objective(name: str, objective: Objective, *, file: str) -> str:
    """Add a user's own objective, for experiments with this name as `objective`; returns the name.

    Args:
      file: the file that defines it, its `__file__`. A run keeps the path and the digest.

    Raises:
      ValueError: flaxmill has an objective of that name, or the row cannot be used.
    """
    if name in _OWN:
        raise ValueError(f"objective {name!r} is one of flaxmill's own; give yours another name")
    data = objective.data
    require = functools.partial(_require, name)
    require(bool(objective.terms), "has no terms; name at least one term of its loss")
    known = ", ".join(get_args(Layout))
    for layout in data.layouts:
        require(
            layout in get_args(Layout), f"reads the layout {layout!r}, which is unknown; use one of {known}"
        )
        is_text = layout in TEXT_LAYOUTS
        require(
            is_text or data.examples is not None, f"reads the layout {layout!r} without saying `examples`"
        )
        require(
            not is_text or data.examples is None, f"reads `examples`, which layout {layout!r} does not hold"
        )
    heads = [head for head in get_args(Head) if head != "none"]
    require(
        objective.head in heads,
        f"has the head {objective.head!r}, which no objective trains; use one of {', '.join(heads)}",
    )
    for token in data.special_tokens:
        tokens = ", ".join(get_args(SpecialToken))
        require(token in get_args(SpecialToken), f"needs the token {token!r}, unknown; use some of {tokens}")
    is_scored = objective.predict is not None and objective.measure is not None
    require(data.examples is None or is_scored, "learns from examples and lacks `predict` or `measure`")
    path = Path(file).absolute()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    OBJECTIVE_DATA[name] = objective.data
    OBJECTIVES[name] = objective._replace(file=str(path), sha256=digest)
    return name


def objective_of(name: str, file: str | None = None) -> Objective:
    """The row of an objective.

    Args:
      file: the file that defines it, as a run's config says.

    Raises:
      ValueError: no objective has that name, or its file has not been run.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if file is not None:
        raise ValueError(
            f"objective={name} is defined in {file}, which flaxmill runs only if you name it: add "
            f"--config {file}, or begin with it: flaxmill train {file}"
        )
    raise ValueError(f"objective={name!r} is unknown; use one of {', '.join(OBJECTIVES)}")


def objective_for(head: Head | None, has_encoder: bool = False) -> str | None:
    """The first objective that trains a model with this head; None: none does, or it has no head, which says
    nothing of what it is for."""
    if head == "none":
        return None
    unfit = "none" if has_encoder else "must"
    fit = (name for name, row in OBJECTIVES.items() if row.head == head and row.encoder != unfit)
    return next(fit, None)


def _require(name: str, condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"objective {name!r} {what}")

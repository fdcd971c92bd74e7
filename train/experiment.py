"""One experiment: everything that decides what a run computes, checked part against part."""

import dataclasses
import math
import os
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flaxmill.data.config import DataConfig
from flaxmill.data.files.local_paths import local_path, refuse_remote
from flaxmill.data.files.remote_paths import is_remote
from flaxmill.data.files.specs import is_local
from flaxmill.data.messages import require
from flaxmill.data.source import parse_source, with_specs
from flaxmill.data.tokenizer.failures import half_character
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import TextPooling
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.metrics.callbacks import find_callbacks_file, metrics_of_callbacks
from flaxmill.train.metrics.trackers import TRACKERS
from flaxmill.train.objectives.table import OBJECTIVES, Objective, objective_of
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.spikes import SpikeConfig

MAX_SEED = 2**32 - 1  # a JAX key takes 32 bits
MAX_STEPS = 2**31 - 1  # the state counts them in 32 bits
DERIVED_FIELDS = (
    *("model.vocab_size", "model.max_positions", "model.head", "model.causal"),
    *("model.num_labels", "model.problem_type", "model.pooling", "data.labels"),
    *("objective_file", "objective_sha256", "callbacks_file", "model.bidirectional_prefix"),
)
"""Fields that `resolve` fills in where they are None or empty."""
REMOVED_FIELDS = ("tensorboard",)
"""Fields of earlier versions that did not change what a run computes."""
TEXTS = ("prompt", "data.separator")
"""Fields that a tokenizer reads."""
FORMER_VALUES: dict[str, Any] = {"data.framing": "spelled", "data.markup": False}
"""What versions without these fields did, where their defaults do something else."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run: model, data, optimizer, mesh, and how long it lasts."""

    name: str = "experiment"
    """What the run is called; names its directory under runs/."""
    objective: str = "causal"
    """causal: next token (GPT); mlm: masked words; mlm_nsp: BERT's two tasks; hybrid: rows of either;
    span_corruption: T5's; prefix_lm: next token after a prefix; for labelled examples classification,
    token_classification, question_answering, seq2seq; for pairs of answers dpo; for pairs of texts
    contrastive; or the name of an objective of your own, which the config file defines."""
    objective_file: str | None = None
    """The file that defines an objective of your own; training fills it in."""
    objective_sha256: str | None = None
    """The digest of that file; training fills it in."""
    steps: int = 1000
    """Updates of the weights; warm-up and decay are fractions of it."""
    epochs: float | None = None
    """How often the training rows are read; None: as `steps` needs. If it is set, `steps` becomes what it
    comes to, and the last batch is filled from the next epoch. On the command line --steps replaces it."""
    batch_size: int = 8
    """Rows of an update over all devices, accumulation included."""
    accumulate: int = 1
    """Microbatches of an update: more need less memory and change nothing else."""
    pipeline_microbatches: int | None = None
    """With mesh.stage: parts into which the stages' rows are divided. More let a stage wait less; None: the
    largest divisor of a group's rows up to 2 x stage."""
    pipeline_rounds: int = 1
    """With mesh.stage: how often a microbatch goes through all stages. A stage then has that many runs of
    layers, and waits less."""
    seed: int = 0
    """Draws the initial weights, the order of the rows, the masks and dropout."""
    init_from: str | None = None
    """A run or a Hugging Face directory. This run starts from its parameters, except a head that the two do
    not share. If no field of the model's body is set, and no tokenizer, both are taken from there too."""
    run_dir: str | None = None
    """Where the run is kept, and continued from; None: a fresh directory under runs/."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    eval_every: int | None = None
    """Steps between evaluations on held-out rows; None: only at the end."""
    eval_batches: int | None = None
    """Batches of an evaluation; None: all held-out rows."""
    z_loss: float = 0.0
    """Weight of the squared log-partition in the loss (PaLM, Chowdhery et al. 2022, section 5)."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over all classes, or the whole vocabulary, in training
    (Szegedy et al. 2016, section 7); evaluations measure without it. DPO: how often a preference is taken to
    be the wrong way round (conservative DPO, Mitchell 2023)."""
    beta: float = 0.1
    """DPO: how strongly the model is held to what it was before training (Rafailov et al. 2023, eq. 7)."""
    pooling: TextPooling | None = None
    """contrastive: how the tokens of a text become its vector; None: as the files of sentence-transformers
    in `init_from` say, or else their mean."""
    temperature: float = 0.05
    """Contrastive: what cosines are divided by; the smaller, the more the nearest wrong texts count."""
    max_skipped_steps: int = 10
    """Non-finite steps in a row after which the run stops."""
    prompt: str = "The "
    """What a causal model continues at the end of training."""
    log_digests: bool = False
    """Add to each row a digest of its step's batch and the random key in use, for comparing runs."""
    trackers: tuple[str, ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, mlflow, aim."""
    callbacks: tuple[str, ...] = ()
    """Functions of your own that are called after each evaluation, by the names that the config file defines
    them with; what they return is reported with the evaluation."""
    callbacks_file: str | None = None
    """The file that defines them; training fills it in."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    spike: SpikeConfig = field(default_factory=SpikeConfig)
    best: BestConfig = field(default_factory=BestConfig)

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "max_skipped_steps",
            "pipeline_rounds",
        ):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.steps <= MAX_STEPS, f"steps={self.steps} is above {MAX_STEPS}; use that or less")
        require(self.epochs is None or self.epochs > 0, f"epochs={self.epochs} must be above 0, or None")
        require(
            self.epochs is None or not self.data.sources,
            f"epochs={self.epochs}: a mixture of data.sources has no epochs as a whole; give --steps, or "
            "limit a source as NAME=WEIGHT@EPOCHS:FILES",
        )
        for name in ("eval_every", "eval_batches", "pipeline_microbatches"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value} must be at least 1, or None")
        require(0 <= self.seed <= MAX_SEED, f"seed={self.seed} must be in [0, {MAX_SEED}]")
        for name in ("beta", "temperature"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be above 0")
        require(self.z_loss >= 0, f"z_loss={self.z_loss} must be 0 or more")
        for name, value in flatten(self).items():
            is_number = not isinstance(value, float) or math.isfinite(value)
            require(is_number, f"{name}={value} is not a finite number; give one")
            is_text = name not in TEXTS or half_character(str(value)) is None
            require(is_text, f"{name}={value!r} is not UTF-8; give it as UTF-8")
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size={self.batch_size} does not divide into accumulate={self.accumulate} microbatches; "
            f"use a batch_size that is a multiple of {self.accumulate}",
        )
        unknown = [name for name in self.trackers if name not in TRACKERS]
        require(
            not unknown, f"trackers={', '.join(unknown)} is unknown; use one or more of {', '.join(TRACKERS)}"
        )
        # A run of a user's own objective may be read without the file that defines it.
        if self.objective in OBJECTIVES or self.objective_file is None:
            _check_objective(self, self.definition)
        if self.callbacks_file is None:  # else it may be read without that file, too
            metrics_of_callbacks(self.callbacks)
        _check_local(self)

    @property
    def text_pooling(self) -> TextPooling:
        """How the tokens of a text become its vector."""
        return self.pooling or "mean"

    @property
    def definition(self) -> Objective:
        """The row of its objective. Raises ValueError if the file that defines it has not been run."""
        return objective_of(self.objective, self.objective_file)


def _check_local(experiment: Experiment) -> None:
    """Refuse remote places before anything is made: as paths they would be folders of that name."""
    for name in ("run_dir", "init_from"):
        if path := getattr(experiment, name):
            local_path(path, name)
    for name in ("files", "valid_files"):
        for path in getattr(experiment.data, name):
            _check_readable(path, f"data.{name}")
    for name in ("sources", "valid_sources"):
        for source in getattr(experiment.data, name):
            _check_readable(parse_source(source).spec, f"data.{name}")
    refuse_remote(experiment.data.tokenizer, "data.tokenizer")


def _check_readable(spec: str, name: str) -> None:
    if not is_remote(spec):
        refuse_remote(spec, name, "local files, gs:// and s3://")


def _check_objective(experiment: "Experiment", definition: Objective) -> None:
    require(
        experiment.z_loss == 0 or definition.gives_log_z,
        f"z_loss={experiment.z_loss} needs a loss over the vocabulary, which "
        f"objective={experiment.objective} does not have; leave it 0",
    )
    require(
        experiment.accumulate == 1 or not definition.compares_rows,
        f"accumulate={experiment.accumulate} would change what objective={experiment.objective} learns: it "
        "compares the rows of a batch; leave it 1, and save memory with --model.remat full",
    )
    require(
        experiment.pooling is None or definition.gives_vectors,
        f"pooling={experiment.pooling} makes a vector of a text, and objective={experiment.objective} learns "
        "none; leave it None (a classifier reads what model.pooling says)",
    )
    share, data = experiment.label_smoothing, experiment.data
    require(0 <= share < 1, f"label_smoothing={share} must be in [0, 1)")
    require(
        share < 0.5 or not definition.has_reference,
        f"label_smoothing={share} takes half of the preferences to be the wrong way round; use less than 0.5",
    )
    has_classes = definition.head != "qa" and (not definition.is_task or data.label_type == "category")
    require(
        share == 0 or has_classes,
        f"label_smoothing={share} spreads a class over others, but objective={experiment.objective} with "
        f"data.label_type={data.label_type} does not choose one class; leave it 0",
    )


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths to what it reads: a run may continue from elsewhere.

    The path of its own directory is kept, except that a `~` that no shell has expanded is expanded.
    """
    data = experiment.data
    is_path = any(mark in data.tokenizer for mark in ("/", os.sep, "."))
    paths = {
        "files": tuple(map(_absolute, data.files)),
        "valid_files": tuple(map(_absolute, data.valid_files)),
        "sources": with_specs(data.sources, _absolute),
        "valid_sources": with_specs(data.valid_sources, _absolute),
        "tokenizer": os.path.abspath(data.tokenizer) if is_path else data.tokenizer,
    }
    init_from = os.path.abspath(experiment.init_from) if experiment.init_from else None
    run_dir = str(local_path(experiment.run_dir, "run_dir")) if experiment.run_dir else None
    data = dataclasses.replace(data, **paths)
    return dataclasses.replace(experiment, run_dir=run_dir, init_from=init_from, data=data)


def with_definition(experiment: Experiment) -> Experiment:
    """The experiment with the file that defines its objective, if it is a user's own, and its digest."""
    definition = experiment.definition
    return dataclasses.replace(experiment, objective_file=definition.file, objective_sha256=definition.sha256)


def with_callbacks(experiment: Experiment) -> Experiment:
    """The experiment with the file that defines its callbacks.

    Raises:
      ValueError: that file has not been run, or the callbacks cannot be used together.
    """
    file = find_callbacks_file(experiment.callbacks, experiment.callbacks_file)
    metrics_of_callbacks(experiment.callbacks)
    return dataclasses.replace(experiment, callbacks_file=file)


def describe_changed_objective(experiment: Experiment) -> str | None:
    """How the file that defines the objective of a run has changed since; None: it has not."""
    definition = experiment.definition
    if definition.sha256 == experiment.objective_sha256:
        return None
    return (
        f"{definition.file}, which defines objective={experiment.objective}, has changed since this run was "
        "trained"
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A dataclass of dataclasses as {dotted name: value}, in the order of its fields."""
    flat = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values; `from_dict` reads it back."""
    return dataclasses.asdict(
        experiment,
        dict_factory=lambda items: {name: list(v) if isinstance(v, tuple) else v for name, v in items},
    )


def from_dict(values: dict[str, Any]) -> Experiment:
    """The experiment that `to_dict` wrote. An absent field does what was done before the field was added.

    Raises:
      ValueError: an unknown field, a value of another type, or a value that the experiment itself refuses.
    """
    return _from_dict(Experiment, values, "")


def _from_dict(cls: type, values: Any, prefix: str) -> Any:
    require(isinstance(values, dict), f"{prefix.rstrip('.') or 'the config'}={values!r} must be an object")
    hints = get_type_hints(cls)
    values = {name: value for name, value in values.items() if prefix + name not in REMOVED_FIELDS}
    unknown = [prefix + name for name in values if name not in hints]
    require(not unknown, f"unknown field {', '.join(unknown)}; this version of flaxmill does not know it")
    former = {name: FORMER_VALUES[prefix + name] for name in hints if prefix + name in FORMER_VALUES}
    arguments = {
        name: _read_value(hints[name], value, prefix + name) for name, value in (former | values).items()
    }
    return cls(**arguments)


def _read_value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, f"{name}.")  # type: ignore[arg-type]
    require(_is_of_type(value, hint), f"{name}={value!r} is not of type {getattr(hint, '__name__', hint)}")
    return tuple(value) if isinstance(value, list) else value


def _is_of_type(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_of_type(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is_of_type(item, arguments[0]) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _absolute(path: str) -> str:
    return os.path.abspath(path) if is_local(path) else path

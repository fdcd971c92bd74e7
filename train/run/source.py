"""A run with `init_from` takes the shape of that model's body, and its tokenizer."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from flaxmill.data.config import TRAINED
from flaxmill.data.tokenizer.reading import LACKS_TOKENIZER, find_tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import TextPooling
from flaxmill.model.huggingface.directory import read_huggingface_config
from flaxmill.model.huggingface.family_fit import describe_config
from flaxmill.model.huggingface.files import read_json
from flaxmill.model.huggingface.sentence_modules import read_sentence_modules
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import (
    CHECKPOINTS,
    CONFIG_FILE,
    TOKENIZER_FILE,
    read_config,
    read_trained_config,
)

# The new run sets these itself: how the model is trained, and its head.
_OWN_FIELDS = (
    *("dropout", "attention_dropout", "dtype", "attention", "remat", "scan_layers"),
    *("head", "num_labels", "problem_type", "bidirectional_prefix"),
    *("lora_rank", "lora_alpha", "lora_targets"),
)


class ModelSource(NamedTuple):
    """A model to start from, and the file of its tokenizer if there is one."""

    model: ModelConfig
    tokenizer: Path | None
    poolings: tuple[TextPooling, ...] = ()
    """How it makes vectors of texts, if it says so."""


def is_huggingface(directory: Path) -> bool:
    """Whether the directory holds a Hugging Face model, and not a run."""
    file = directory / CONFIG_FILE
    if (directory / CHECKPOINTS).is_dir() or not file.is_file():
        return False
    return "model_type" in read_json(file)


def read_source(experiment: Experiment) -> ModelSource:
    """The model that `experiment.init_from` names, with the head that the objective needs.

    Raises:
      ValueError: it is neither a run nor the directory of a known model, or its family has no such head.
    """
    assert experiment.init_from is not None
    path, head = Path(experiment.init_from), experiment.definition.head
    if is_huggingface(path):
        poolings = read_sentence_modules(path).poolings if experiment.definition.gives_vectors else ()
        return ModelSource(read_huggingface_config(path, head), find_tokenizer(path), poolings)
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(
            f"init_from={path} is neither a run nor a Hugging Face model: it has no {CONFIG_FILE}; "
            "give a run directory, or a directory with a model's config.json and weights"
        )
    file = path / TOKENIZER_FILE
    # What their head reads does not matter to ours.
    trained = read_trained_config(path)
    model = dataclasses.replace(trained.model, head=head, pooling=None, pooler=None)
    return ModelSource(model, file if file.is_file() else None, _poolings(trained))


def adopt_source(experiment: Experiment) -> Experiment:
    """The experiment, with what it leaves open taken from `init_from`.

    If no field of the model's body is set, the model takes the source's body, and texts are pooled as its
    files say. A tokenizer that would be
    trained is replaced by the source's, because it must index the source's embeddings. A run that has begun
    has both in its own config, so the source may be gone.

    Raises ValueError as `read_source` does, where the tokenizer is open and the source has none, and where
    the pooling is and the source has several.
    """
    if experiment.init_from is None:
        return experiment
    source = _begun(experiment) or read_source(experiment)
    model, data = experiment.model, experiment.data
    if _body(model) == _body(ModelConfig()):
        own = {name: getattr(model, name) for name in _OWN_FIELDS}
        own |= {name: getattr(model, name) or getattr(source.model, name) for name in ("pooling", "pooler")}
        model = dataclasses.replace(source.model, **own)
    if data.tokenizer in TRAINED and source.tokenizer is not None:
        data = dataclasses.replace(data, tokenizer=str(source.tokenizer))
    elif data.tokenizer in TRAINED and data.tokenizer != "bytes":  # bytes are the same everywhere
        raise ValueError(
            f"init_from={experiment.init_from} {LACKS_TOKENIZER}; its weights do not know a newly "
            "trained one: put the model's own there, or name it as data.tokenizer"
        )
    pooling = experiment.pooling
    if pooling is None and experiment.definition.gives_vectors:
        pooling = _only(source.poolings, experiment.init_from)
    return dataclasses.replace(experiment, model=model, data=data, pooling=pooling)


def _only(poolings: tuple[TextPooling, ...], source: str) -> TextPooling | None:
    """The pooling that the source says, if it says one."""
    if len(poolings) > 1:
        names = ", ".join(poolings)
        raise ValueError(
            f"init_from={source} joins {len(poolings)} poolings of a text ({names}), and one is trained; "
            f"choose it with --pooling {poolings[0]}"
        )
    return next(iter(poolings), None)


def check_body(ours: ModelConfig, theirs: ModelConfig, source: Path) -> None:
    """Refuse to load the weights of a model that computes differently, even where all shapes agree.

    Raises:
      ValueError: naming the fields that differ.
    """
    mine, other = describe_config(_without_head(ours)), describe_config(_without_head(theirs))
    differing = [
        f"model.{name} {other.get(name)} -> {mine.get(name)}"
        for name in sorted(mine.keys() | other.keys())
        if mine.get(name) != other.get(name) and not name.endswith(("_id", "_ids"))
    ]
    if differing:
        raise ValueError(
            f"init_from={source} holds another model: {', '.join(differing)}; leave the model's own fields "
            "unset to take its shape, or choose another source"
        )


def _begun(experiment: Experiment) -> ModelSource | None:
    """What the run took when it began, if this experiment continues it and names the same source."""
    if experiment.run_dir is None or not (Path(experiment.run_dir) / CONFIG_FILE).is_file():
        return None
    stored = read_config(Path(experiment.run_dir))
    if stored.init_from != experiment.init_from:
        return None
    return ModelSource(stored.model, Path(stored.data.tokenizer), _poolings(stored))


def _poolings(run: Experiment) -> tuple[TextPooling, ...]:
    return () if run.pooling is None else (run.pooling,)


def _body(model: ModelConfig) -> ModelConfig:
    unset = {name: getattr(ModelConfig(), name) for name in (*_OWN_FIELDS, "pooling", "pooler")}
    return dataclasses.replace(model, **unset)


def _without_head(model: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        _body(model), head="none", pooler="none", causal=bool(model.causal), family=None, tie_embeddings=True
    )

"""Models in Hugging Face's format: a directory read into a config and parameters, or written from them."""

import contextlib
import difflib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import label_names, write_labels
from flaxmill.model.config_json.values import write_token_ids
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.fields import Head
from flaxmill.model.heads import HEAD_PARAMETERS
from flaxmill.model.huggingface.config_reading import read_config, warn_of_unknown_keys
from flaxmill.model.huggingface.export import export_tensors
from flaxmill.model.huggingface.family_fit import fit_family
from flaxmill.model.huggingface.files import read_json, read_weights, tensor_names
from flaxmill.model.huggingface.loading import fresh_leaves, load_leaf
from flaxmill.model.huggingface.places import leaves, stored_shapes
from flaxmill.model.huggingface.strict_match import match_tensors, warn_of_not_finite
from flaxmill.model.huggingface.tokenizer_files import write_tokenizer
from flaxmill.model.huggingface.writing import PartialFiles, write_weights
from flaxmill.model.params import Params, unflatten

LOGGER = logging.getLogger("flaxmill.weights")
TRANSFORMERS_VERSION = "5.23.0"  # the release whose names and settings the files have


def load_huggingface(
    directory: str | os.PathLike,
    *,
    head: Head | None = None,
    num_labels: int | None = None,
    mesh: Mesh | None = None,
    key: jax.Array | None = None,
) -> tuple[ModelConfig, Params]:
    """A model from a directory that `save_pretrained` or a download made; parameters are float32.

    Args:
      head: any head of the family; what the file lacks of it is initialised, and the log says so. None: the
        head that config.json names.
      num_labels: classes of a new head, which then has the default problem_type; None: as config.json says.
      mesh: place the parameters on it; this process reads what its devices hold.
      key: draws what is initialised; None: jax.random.key(0).

    Raises:
      ValueError: the directory holds no model of a known family and head, a file is torn, or tensors are
        missing, unexpected or misshapen (the message lists them).
    """
    settings = _read_settings(Path(directory))
    family, head_read = _family_and_head(directory, settings, head)
    arrays = family.unfused(read_weights(directory))
    config = read_config(family, settings, head_read, frozenset(arrays))
    warn_of_unknown_keys(family, settings)
    if num_labels not in (None, config.num_labels):
        config = replace(config, num_labels=num_labels, problem_type=None)
    parameters = leaves(config, family.tensors(config))
    of_head = [leaf for leaf in parameters if leaf.path[0] in HEAD_PARAMETERS]
    arrays = match_tensors(
        family,
        config,
        arrays,
        expected=stored_shapes(parameters),
        of_head=stored_shapes(of_head),
        of_other_heads=_tensors_of_all_heads(family, settings, frozenset(arrays)),
        head_may_lack=head is not None,
    )
    absent = [leaf for leaf in of_head if any(place.name not in arrays for place in leaf.places)]
    params = {}
    if absent:
        names = ", ".join("/".join(leaf.path) for leaf in absent)
        LOGGER.warning("%s holds no %s: newly initialised, to be trained", directory, names)
        params = fresh_leaves(config, absent, jax.random.key(0) if key is None else key, mesh)
    not_finite: Counter[str] = Counter()
    for leaf in parameters:
        if leaf.path not in params:
            params[leaf.path] = load_leaf(leaf, arrays, mesh, not_finite)
    warn_of_not_finite(directory, not_finite)
    return config, unflatten(params)


def read_huggingface_config(directory: str | os.PathLike, head: Head | None = None) -> ModelConfig:
    """The model that a directory describes; only the names of its weights are read, if there are any.

    Raises ValueError for the contents of config.json, as `load_huggingface` does.
    """
    settings = _read_settings(Path(directory))
    family, head = _family_and_head(directory, settings, head)
    config = read_config(family, settings, head, tensor_names(directory))
    warn_of_unknown_keys(family, settings)
    return config


def read_labels(directory: str | os.PathLike) -> tuple[str, ...]:
    """The names of the classes of a directory's model, in the order of their numbers."""
    return label_names(_read_settings(Path(directory)))


def save_huggingface(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: Params,
    *,
    tokenizer_json: str | None = None,
    tokenizer_settings: Mapping[str, Any] | None = None,
    generation_settings: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write a directory that transformers loads: config.json, safetensors and, for lm, generation settings.

    A model that is already in the directory is replaced once the new one is completely on the disk.

    Args:
      tokenizer_json: text of a tokenizer.json, to be saved for `AutoTokenizer`.
      tokenizer_settings: for tokenizer_config.json, above all the roles of special tokens (`eos_token` and
        the like); None: the roles that the config's ids name.
      generation_settings: for generation_config.json, which also gets the config's end token; None: only the
        config's token ids are written.
      labels: names of the classes; (): LABEL_0 and so on.

    Raises:
      ValueError: no family has this model (`fit_family`).
    """
    family, config = fit_family(config)
    if config.head == "classification" and config.pooled_place == "last" and config.pad_id is None:
        # transformers finds the ends of a batch's rows by pad_id; rows here hold no end token of their own.
        config = replace(config, pad_id=config.eos_id)
    parameters = leaves(config, family.tensors(config))
    tensors = export_tensors(parameters, params)
    if jax.process_index() > 0:  # one process writes; all take part if parameters are spread over them
        for _ in tensors:
            pass
        return
    with PartialFiles(Path(directory)) as files:
        write_weights(files, stored_shapes(parameters), tensors)
        if tokenizer_json is not None:
            write_tokenizer(files, tokenizer_json, tokenizer_settings or {}, config)
        if config.head == "lm":
            files.write_json("generation_config.json", _generation_settings(config, generation_settings))
        names = write_labels(labels) if config.num_classes == len(labels) else {}
        files.write_json("config.json", _settings(family, config) | names)
        files.commit()


def stored_tensors(config: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters, or gradients, or any tree like them, under Hugging Face's names and in torch's layout.

    Raises ValueError where no family has this model.
    """
    family, config = fit_family(config)
    return export_tensors(leaves(config, family.tensors(config)), params)


def _read_settings(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise ValueError(f"{str(directory)!r} is not a directory; give one with config.json and weights")
    if not (directory / "config.json").is_file():
        raise ValueError(
            f"{str(directory)!r} holds no config.json; give the directory of a Hugging Face model"
        )
    return read_json(directory / "config.json")


def _family_and_head(
    directory: str | os.PathLike, settings: Mapping[str, Any], head: Head | None
) -> tuple[FamilyDescription, Head]:
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        near = difflib.get_close_matches(str(model_type), FAMILIES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"{str(directory)!r} has model_type={model_type!r}; {hint}supported: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[model_type]
    head = _named_head(directory, settings, family) if head is None else head
    if head not in family.architectures:
        raise ValueError(
            f"head={head} does not exist in {model_type}; it has {', '.join(family.architectures)}"
        )
    return family, head


def _named_head(directory: str | os.PathLike, settings: Mapping[str, Any], family: FamilyDescription) -> Head:
    classes: dict[str, Head] = {name: head for head, name in family.architectures.items()}
    named = settings.get("architectures")
    named = named[0] if isinstance(named, list) and named else named
    if not isinstance(named, str) or named not in classes:
        raise ValueError(
            f"{str(directory)!r} has architectures={named}; supported for {family.model_type}: "
            f"{', '.join(classes)}; or name its head, one of {', '.join(family.architectures)}"
        )
    return classes[named]


def _tensors_of_all_heads(
    family: FamilyDescription, settings: Mapping[str, Any], names: frozenset[str]
) -> set[str]:
    """Names outside the layers, copies of tied tensors included."""
    found: set[str] = set()
    for head in family.architectures:
        # A setting that is not supported here may concern only another head.
        with contextlib.suppress(ValueError):
            config = read_config(family, settings, head, names)
            found |= {stored.name for stored in family.tensors(config).values()} | set(family.tied(config))
    return {name for name in found if "{layer}" not in name}


def _settings(family: FamilyDescription, config: ModelConfig) -> dict[str, Any]:
    assert config.head is not None
    return {
        "architectures": [family.architectures[config.head]],
        "model_type": family.model_type,
        "dtype": "float32",
        **family.write_config(config),
        "transformers_version": TRANSFORMERS_VERSION,
    }


def _generation_settings(config: ModelConfig, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """The kept settings, with the model's own end token added; without any, the config's token ids."""
    if kept is None:
        ids: dict[str, Any] = {name: id_ for name, id_ in write_token_ids(config).items() if id_ is not None}
        if config.decoder_start_id is not None:
            ids["decoder_start_token_id"] = config.decoder_start_id
        return {"_from_model_config": True, **ids, "transformers_version": TRANSFORMERS_VERSION}
    named = kept.get("eos_token_id")
    ends = named if isinstance(named, list) else [] if named is None else [named]
    if config.eos_id is None or config.eos_id in ends:
        return dict(kept)
    return {**kept, "eos_token_id": [config.eos_id, *ends] if ends else config.eos_id}

"""Where a checkpoint comes from: its data, its tokenizer, the versions and the devices that made it."""

import datetime
import hashlib
import importlib.metadata
import platform
from typing import Any

import jax
from jax.sharding import Mesh

from flaxmill.data.config import TRAINED
from flaxmill.data.mixture.mixed_dataset import AnyDataset
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.data.tokenizer.roles import roles_by_spelling
from flaxmill.train.experiment import FORMER_VALUES, Experiment, to_dict

PACKAGES = ("flaxmill", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

MASKS_BY_ROW = "by row, of half words"
"""How dropout draws; checkpoints of versions that drew otherwise have another text, or none."""


def provenance(experiment: Experiment, dataset: AnyDataset, mesh: Mesh) -> dict[str, Any]:
    """What a checkpoint's metadata says about the run, as JSON values; the time is that of the call."""
    return {
        "dataset": dataset.fingerprint,
        "tokenizer": tokenizer_digest(dataset.tokenizer),
        "versions": versions(),
        "saved_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mesh": dict(mesh.shape),
        "num_processes": jax.process_count(),
        "dropout": MASKS_BY_ROW,
        "config": to_dict(experiment),
    }


def versions() -> dict[str, str]:
    """Python and the packages that decide what a step computes."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of what the tokenizer does, whatever its file looks like."""
    return hashlib.sha256(canonical_json(tokenizer).encode()).hexdigest()


def describe_other_data(metadata: dict[str, Any], dataset: AnyDataset) -> str | None:
    """How the dataset differs from the one that a checkpoint was trained on; None: it does not.

    Imported weights were trained on no dataset of ours, so they differ from none.
    """
    if metadata.get("dataset", dataset.fingerprint) == dataset.fingerprint:
        return None
    if former := _describe_former_framing(metadata, dataset):
        was, now = metadata["dataset"][:12], dataset.fingerprint[:12]
        return f"was trained on dataset {was}, {former}: the dataset is now {now}"
    digest = tokenizer_digest(dataset.tokenizer)
    # A tokenizer that is trained on the text changes with it.
    trained = metadata.get("config", {}).get("data", {}).get("tokenizer") in TRAINED
    what = "text" if trained or metadata.get("tokenizer", digest) == digest else "tokenizer"
    return (
        f"was trained on dataset {metadata['dataset'][:12]}, but its {what} has changed: "
        f"the dataset is now {dataset.fingerprint[:12]}"
    )


def describe_other_masks(metadata: dict[str, Any], experiment: Experiment) -> str | None:
    """How dropout goes on differently than in the run that made a checkpoint; None: it does not."""
    model = experiment.model
    if metadata.get("dropout") == MASKS_BY_ROW or not (model.dropout or model.attention_dropout_rate):
        return None
    return (
        "was trained by a version that drew other dropout masks; they are now drawn row by row, with 16 bits "
        "for an entry, so they differ from here on"
    )


def _describe_former_framing(metadata: dict[str, Any], dataset: AnyDataset) -> str | None:
    """What a run did differently with the same text, as version 0.1.0 did, and the switch that keeps it."""
    if not (data := metadata.get("config", {}).get("data", {})):
        return None
    framing = data.get("framing", FORMER_VALUES["data.framing"])
    if "markup" in dataset.settings and data.get("markup", FORMER_VALUES["data.markup"]) is False:
        return "whose texts did not spell special tokens, as they do now; --data.markup False keeps that"
    if "framing" in dataset.settings and framing != dataset.settings["framing"]:
        return (
            "whose documents did not begin as the tokenizer's template says, as they do now; "
            f"--data.framing {framing} keeps that"
        )
    spelled = Tokenizer(dataset.tokenizer.inner, roles=roles_by_spelling(dataset.tokenizer.inner))
    had_those = metadata.get("tokenizer") == tokenizer_digest(spelled) != tokenizer_digest(dataset.tokenizer)
    if framing == "spelled" and had_those:
        return (
            "where the spelling of special tokens told their roles, and not the files beside the tokenizer; "
            "--data.framing spelled keeps that"
        )
    return None

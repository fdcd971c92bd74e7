"""Where a checkpoint comes from: its data, its tokenizer, the versions and the devices that made it."""

import datetime
import hashlib
import importlib.metadata
import platform
from typing import Any

import jax
from jax.sharding import Mesh

from flaxmill.data.config import TRAINED
from flaxmill.data.dataset import Dataset
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.train.experiment import Experiment, to_dict

PACKAGES = ("flaxmill", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(experiment: Experiment, dataset: Dataset, mesh: Mesh) -> dict[str, Any]:
    """What a checkpoint's metadata says of the run, as JSON values; the time is when it is called."""
    return {
        "dataset": dataset.fingerprint,
        "tokenizer": tokenizer_digest(dataset.tokenizer),
        "versions": versions(),
        "saved_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mesh": dict(mesh.shape),
        "num_processes": jax.process_count(),
        "config": to_dict(experiment),
    }


def versions() -> dict[str, str]:
    """Python and the packages that decide what a step computes."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of what the tokenizer does, whatever its file looks like."""
    return hashlib.sha256(canonical_json(tokenizer).encode()).hexdigest()


def describe_other_data(metadata: dict[str, Any], dataset: Dataset) -> str | None:
    """How the dataset differs from the one that a checkpoint was trained on; None: it does not.

    Imported weights were trained on no dataset of ours, so they differ from none.
    """
    if metadata.get("dataset", dataset.fingerprint) == dataset.fingerprint:
        return None
    digest = tokenizer_digest(dataset.tokenizer)
    # One that is trained on the text changes with it.
    trained = metadata.get("config", {}).get("data", {}).get("tokenizer") in TRAINED
    what = "text" if trained or metadata.get("tokenizer", digest) == digest else "tokenizer"
    return (
        f"was trained on dataset {metadata['dataset'][:12]}, but its {what} has changed: "
        f"the dataset is now {dataset.fingerprint[:12]}"
    )

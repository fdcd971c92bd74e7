"""How likely a model found the answers of preferences before it was trained on them.

This is computed once, by the initial weights, and kept in the run's directory: training needs no second
model, and a run that continues reads the very numbers that it began with.
"""

# N pairs of a split, B pairs of a batch, 2: the chosen and the rejected answer

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flaxmill.data.batches import Batches
from flaxmill.data.example_batches import REFERENCE
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.text.held_out import Split
from flaxmill.data.whole_files import write_whole
from flaxmill.model.params import Params
from flaxmill.model.transformer import Batch, Transformer
from flaxmill.sharding.processes.coordination import any_process, is_main
from flaxmill.train.checkpoint.digest import compute_digests
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import RunError
from flaxmill.train.input_pipeline import eval_batch_size, make_batches, read_ahead
from flaxmill.train.objectives.losses import SumOptions
from flaxmill.train.objectives.preference_losses import answer_logps
from flaxmill.train.step import make_row_step

REFERENCE_FILE = "reference.safetensors"
_METADATA = "flaxmill"  # one text: the library writes several in any order
SPLITS: tuple[Split, ...] = get_args(Split)

Say = Callable[[str], None]


class Reference(NamedTuple):
    """float32 [N,2] of each split, and the digest of the weights that they are of."""

    logps: dict[Split, np.ndarray]
    weights: str


def attach_reference(
    experiment: Experiment,
    mesh: Mesh,
    dataset: Dataset,
    file: Path,
    find_initial: Callable[[], Params | None],
    *,
    is_initial: bool,
    say: Say,
    tell: Callable[[str], None] = lambda what: None,
) -> None:
    """Have the dataset's rows hold the reference that the file keeps, or else computed now and kept there.

    Args:
      find_initial: gives the weights before training; None: nobody has them any more.
      is_initial: they are at hand, and what the file keeps must be of them.
      tell: is told how far it is.

    Raises RunError where the file cannot be used and the weights before training are gone.
    """
    kept, problem = _read(file, dataset)
    initial = find_initial() if is_initial else None
    weights = None if initial is None else digest_weights(initial)
    if kept is not None and weights not in (None, kept.weights):
        kept, problem = None, "is of other weights"
    if any_process(kept is None):  # all compute, or none
        initial = initial or find_initial()
        if initial is None:
            raise RunError(
                f"{file} {problem}, and the weights before training, by which it was computed, are gone; "
                "restore the file, or start a new run"
            )
        num_pairs = sum(dataset.statistics[split]["num_rows"] for split in SPLITS)
        say(f"computing how likely the answers of {num_pairs:,} pairs are before training")
        logps: dict[Split, np.ndarray] = {
            split: _compute(experiment, mesh, dataset, split, initial, tell) for split in SPLITS
        }
        kept = Reference(logps, digest_weights(initial) if weights is None else weights)
        if is_main():
            write_whole(file, functools.partial(_write, kept, dataset))
    assert kept is not None
    for split, values in kept.logps.items():
        dataset.put_beside(split, REFERENCE, values)


def attach_held_out_reference(
    experiment: Experiment, mesh: Mesh, dataset: Dataset, file: Path, find_initial: Callable[[], Params]
) -> None:
    """Have the held-out rows hold what a run's file keeps, or for other rows what its first weights give."""
    kept, _ = _read(file, dataset)
    if kept is not None:
        logps = kept.logps["valid"]
    else:
        logps = _compute(experiment, mesh, dataset, "valid", find_initial(), lambda what: None)
    dataset.put_beside("valid", REFERENCE, logps)


def measure_pairs(
    experiment: Experiment,
    mesh: Mesh,
    batches: Batches,
    params: Params,
    tell: Callable[[str], None] = lambda what: None,
) -> np.ndarray:
    """float32 [N,2,2]: of the pairs of a split, the log-probabilities of both answers by the weights, and the
    reference's (NaN where there is none yet)."""
    step = make_row_step(experiment, mesh, functools.partial(_of_rows, experiment))
    found_NX2 = np.full((batches.num_rows, 2, 2), np.nan, np.float32)
    pending: list[Any] = []
    with closing(read_ahead(batches, mesh, 0, batches.num_batches, zigzag=False)) as ahead:
        for number, batch, _ in ahead:
            tell(f"measuring batch {number}")
            pending.append(step(params, batch))
            if len(pending) > 1:  # read one batch late, so that the device never waits for the host
                _put(found_NX2, pending.pop(0))
    for values in pending:
        _put(found_NX2, values)
    return found_NX2


def digest_weights(params: Params) -> str:
    """SHA-256 of the digests of all arrays, the same on every mesh."""
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(params)
    digests = compute_digests({jax.tree_util.keystr(path): leaf for path, leaf in paths_and_leaves})
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _compute(
    experiment: Experiment,
    mesh: Mesh,
    dataset: Dataset,
    split: Split,
    params: Params,
    tell: Callable[[str], None],
) -> np.ndarray:
    small = dataclasses.replace(experiment, batch_size=eval_batch_size(experiment), accumulate=1)
    batches = make_batches(dataset, split, small)
    return np.ascontiguousarray(measure_pairs(experiment, mesh, batches, params, tell)[:, 0])


def _of_rows(experiment: Experiment, model: Transformer, batch: Batch) -> dict[str, jax.Array]:
    logps_B2 = answer_logps(model, batch, SumOptions(experiment.definition))
    return {"logps": logps_B2, "reference": batch["reference"], "numbers": batch["example_numbers"]}


def _put(found_NX2: np.ndarray, values: dict[str, jax.Array]) -> None:
    numbers_B, logps_B2, reference_B2 = (np.asarray(values[n]) for n in ("numbers", "logps", "reference"))
    exists_B = numbers_B >= 0
    found_NX2[numbers_B[exists_B]] = np.stack([logps_B2, reference_B2], 1)[exists_B]


def _read(file: Path, dataset: Dataset) -> tuple[Reference | None, str]:
    """What the file keeps for this dataset; or None, and what is wrong with the file."""
    if not file.is_file():
        return None, "is missing"
    try:
        with safe_open(file, "numpy") as opened:
            metadata = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
            logps: dict[Split, np.ndarray] = {split: opened.get_tensor(split) for split in SPLITS}
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None, "is damaged"
    if not isinstance(metadata, dict):
        return None, "is damaged"
    if metadata.get("dataset") != dataset.fingerprint:
        return None, "is of other data"
    shapes = {split: (dataset.statistics[split]["num_rows"], 2) for split in SPLITS}
    is_whole = {name: values.shape for name, values in logps.items()} == shapes
    if not is_whole or metadata.get("sha256") != _digest(logps):
        return None, "is damaged"
    return Reference(logps, metadata.get("weights", "")), ""


def _write(reference: Reference, dataset: Dataset, file: Path) -> None:
    metadata = {
        "dataset": dataset.fingerprint,
        "weights": reference.weights,
        "sha256": _digest(reference.logps),
    }
    text = json.dumps(metadata)
    file.write_bytes(save({**reference.logps}, {_METADATA: text}))  # save_file would let nobody else read it


def _digest(logps: dict[Split, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(logps[split].tobytes())
    return digest.hexdigest()

"""`flaxmill eval` in Python: measures a run or a Hugging Face model on its held-out data or on other data."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from flaxmill.data.mixture.mixed_dataset import AnyDataset
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.model.params import Params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.compilation.settings import set_up_compilation
from flaxmill.train.evaluation import compare_with_counting, evaluate_all
from flaxmill.train.experiment import Experiment, with_callbacks
from flaxmill.train.inference.evaluated import Evaluated, call_callbacks
from flaxmill.train.inference.measured_experiment import read_experiment
from flaxmill.train.inference.other_data import OtherData, folder_name
from flaxmill.train.inference.predictions import Model
from flaxmill.train.inference.reference import REFERENCE_FILE, attach_held_out_reference
from flaxmill.train.inference.task_evaluation import evaluate_examples, is_labelled
from flaxmill.train.input_pipeline import HeldOut, eval_batch_size, make_held_out, prepare_data
from flaxmill.train.jax_environment import set_float32_products
from flaxmill.train.metrics.progress import warn
from flaxmill.train.resolution import resolve
from flaxmill.train.run.directory import IMPORTED_STEP
from flaxmill.train.run.mesh_fit import check_mesh
from flaxmill.train.run.provenance import describe_other_data
from flaxmill.train.run.restoring import load_params
from flaxmill.train.run.source import is_huggingface
from flaxmill.train.step import make_eval_step


def evaluate_run(
    source: Path,
    other: OtherData | None = None,
    mesh_config: MeshConfig | None = None,
    output: Path | None = None,
    lengths: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a run's checkpoint (the best, or else the newest), or a Hugging Face model.

    Text gives losses and what counting reaches; labelled examples give the scores of the task, and the
    predictions are written to `output`.

    Args:
      mesh_config: None: as many devices as divide the rows of an evaluation step.
      output: None: RUN/eval-STEP, and in it a folder for `other`; for text nothing is written.
      lengths: fields of DataConfig (sequence_length, target_length, stride) that differ from the run's, or
        from what a Hugging Face model reaches.

    Raises:
      ValueError: no such model, no checkpoint in it, its data has changed, or `other` cannot be read.
    """
    cache = cache_directory()
    set_up_compilation(cache)
    experiment = read_experiment(source, other, lengths or {})
    set_float32_products(experiment.model.dtype)
    devices = math.gcd(eval_batch_size(experiment), jax.device_count())
    experiment = dataclasses.replace(experiment, mesh=mesh_config or MeshConfig(data=devices))
    mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, mesh)
    params, metadata, step = _load(source, experiment, mesh)
    dataset = prepare_data(experiment, cache, lambda line: None)
    changed = describe_other_data(metadata, dataset) if other is None and not lengths else None
    if changed:
        raise ValueError(f"{source} {changed}; restore the data, or measure on other data with --data FILE")
    if is_huggingface(source) or lengths:
        experiment = resolve(experiment, dataset.tokenizer, dataset.labels)
    _say_what_is_cut(dataset)
    output = output or _output(source, step, other)
    with jax.set_mesh(mesh):
        if experiment.definition.has_reference:
            _attach_reference(source, experiment, mesh, dataset)
        held_out = make_held_out(dataset, experiment)
        measured = _measure(experiment, params, dataset, held_out, mesh, output, other is not None)
        if experiment.callbacks and _has_callbacks(experiment):
            rows, tokenizer = held_out.first, dataset.tokenizer
            measured |= call_callbacks(
                Evaluated(experiment, params, mesh, tokenizer, rows, source, step, measured)
            )
    return ({} if is_huggingface(source) else {"step": step}) | measured


def _attach_reference(source: Path, experiment: Experiment, mesh: Mesh, dataset: AnyDataset) -> None:
    assert isinstance(dataset, Dataset), "labelled examples are not mixed"

    def find_initial() -> Params:
        try:
            return load_params(source, experiment, mesh, step=IMPORTED_STEP)[0]
        except ValueError as error:
            raise ValueError(
                f"objective={experiment.objective} measures against the weights before training, and {error}"
                "; measure without --data, or train with checkpoint.keep_every, which keeps step 0"
            ) from None

    attach_held_out_reference(experiment, mesh, dataset, source / REFERENCE_FILE, find_initial)


def _output(source: Path, step: int, other: OtherData | None) -> Path:
    folder = Path(f"{source.name}-eval") if is_huggingface(source) else source / f"eval-{step}"
    return folder if other is None else folder / folder_name(other.files)


def _say_what_is_cut(dataset: AnyDataset) -> None:
    num_cut = dataset.statistics["valid"].get("num_cut", 0)
    if num_cut and dataset.layout != "answers":  # windows of answers cover a context together
        warn(
            f"{num_cut:,} of {dataset.statistics['valid']['num_examples']:,} examples are cut to "
            f"{dataset.sequence_length} tokens; --sequence-length N reads more of them, if the model can"
        )


def _measure(
    experiment: Experiment,
    params: Params,
    dataset: AnyDataset,
    held_out: HeldOut,
    mesh: Mesh,
    output: Path,
    counts_itself: bool,
) -> dict[str, Any]:
    """Losses or scores; `counts_itself`: what counting reaches was counted on the very data measured."""
    is_task = experiment.definition.is_task
    measured: dict[str, Any] = {}
    if not is_task or is_labelled(experiment.data, experiment.objective):
        eval_step = make_eval_step(experiment, mesh, held_out.first.max_predictions)
        metrics = evaluate_all(eval_step, params, held_out, experiment, mesh)
        assert metrics is not None, "nobody asked it to stop"
        statistics = dict(dataset.statistics["valid"])
        if counts_itself:
            statistics.pop("bigram_entropy", None)
        compared = compare_with_counting(metrics, experiment.objective, statistics)
        # The scores of a task say the rest better.
        measured |= {"eval_loss": metrics["eval_loss"]} if is_task else compared
    if is_task:
        model = Model(experiment, params, mesh, dataset.tokenizer)
        measured |= evaluate_examples(model, held_out.first, output)
    return measured


def _has_callbacks(experiment: Experiment) -> bool:
    """Whether the file that defines the callbacks has been run; says it if not, since all else can be
    measured without them."""
    try:
        with_callbacks(experiment)
    except ValueError:
        names, file = ", ".join(experiment.callbacks), experiment.callbacks_file
        warn(f"the callbacks {names} are defined in {file}: add --config {file} to call them, too")
        return False
    return True


def _load(source: Path, experiment: Experiment, mesh: Mesh) -> tuple[Params, dict[str, Any], int]:
    if not is_huggingface(source):
        return load_params(source, experiment, mesh)
    with jax.set_mesh(mesh):
        return load_huggingface(source, mesh=mesh)[1], {}, 0

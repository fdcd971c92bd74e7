"""Opens and checks what a run is made of: data, mesh, run directory, and where its rows go."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from flaxmill.data.config import TRAINED
from flaxmill.data.mixture.mixed_dataset import AnyDataset
from flaxmill.data.preparation.means import Means
from flaxmill.model.functional import count_params
from flaxmill.sharding.memory import HOST_MEMORY
from flaxmill.sharding.mesh import MeshConfig, describe_free_axis, describe_shape, make_mesh
from flaxmill.sharding.processes.coordination import (
    agree_on,
    any_process,
    is_main,
    take_equal_threads,
    texts_of_all,
)
from flaxmill.sharding.processes.processor import processor_kind
from flaxmill.sharding.processes.step_signals import Stop
from flaxmill.sharding.processes.watch import Peers
from flaxmill.train.best import check_best
from flaxmill.train.caches import cache_directory
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.compilation.ahead import Ahead, is_compiling
from flaxmill.train.compilation.compiled_step import resolve_without_tokenizer
from flaxmill.train.compilation.settings import set_up_compilation
from flaxmill.train.evaluation import evaluation_names
from flaxmill.train.experiment import (
    Experiment,
    from_dict,
    to_dict,
    with_absolute_paths,
    with_callbacks,
    with_definition,
)
from flaxmill.train.input_pipeline import make_train_batches, prepare_data, with_steps
from flaxmill.train.jax_environment import set_float32_products
from flaxmill.train.metrics.callbacks import metrics_of_callbacks
from flaxmill.train.metrics.metrics_file import MetricsWriter
from flaxmill.train.metrics.progress import short_number, warn
from flaxmill.train.metrics.trackers import Trackers, check_installed
from flaxmill.train.optimizer.freezing import count_trained
from flaxmill.train.resolution import resolve, resolve_before_data
from flaxmill.train.run.directory import (
    IMPORTED_STEP,
    METRICS_FILE,
    Allowed,
    check_run_directory,
    describe_differences,
    differences,
    has_checkpoint,
)
from flaxmill.train.run.lock import lock_run_directory
from flaxmill.train.run.mesh_fit import check_mesh, describe_pipeline
from flaxmill.train.run.provenance import versions
from flaxmill.train.run.restoring import Start
from flaxmill.train.run.source import adopt_source

ChooseMesh = Callable[[Experiment], MeshConfig]
"""Chooses a mesh once JAX knows the devices of all processes; all of them must choose the same."""


class Job(NamedTuple):
    """What stays the same from the first step of a run to its last."""

    experiment: Experiment
    mesh: Mesh
    dataset: AnyDataset
    directory: Path
    checkpoints: Checkpoints
    writer: MetricsWriter | None
    trackers: Trackers | None
    stop: Stop | None
    peers: Peers
    ahead: Ahead


def prepare_all(
    experiment: Experiment, allowed: Allowed, ahead: Ahead, choose_mesh: ChooseMesh | None = None
) -> tuple[Experiment, Mesh, AnyDataset]:
    """The resolved experiment with its mesh and data, each check made as early as it can be; `ahead` is told
    what to compile meanwhile."""
    take_equal_threads(warn)
    check_installed(experiment.trackers)
    experiment = adopt_source(with_callbacks(with_definition(with_absolute_paths(experiment))))
    cache = cache_directory()
    set_up_compilation(cache)
    set_float32_products(experiment.model.dtype)
    _warn_of_unlike_processors()
    if choose_mesh is not None:
        experiment = dataclasses.replace(experiment, mesh=choose_mesh(experiment))
    mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, mesh)
    check_host_memory(experiment, mesh)
    # Before the data is prepared, which may take long; how many steps its epochs are is not known yet.
    check_run_directory(experiment, allowed, knows_steps=experiment.epochs is None)
    # Also before: a refusal after it would be a pity. With the vocabulary that is to be trained, the model is
    # the one that is compiled, and its shapes are found once.
    early = resolve_without_tokenizer if experiment.data.tokenizer in TRAINED else resolve_before_data
    _check_model(early(experiment))
    log = print if is_main() else say_nothing
    for line in (describe_free_axis(experiment.mesh, mesh), describe_pipeline(experiment, mesh.shape)):
        if line:
            log(line)
    ahead.expect(experiment, mesh, has_checkpoint=has_checkpoint(experiment))
    dataset = prepare_data(experiment, cache, log, Means(beside=is_compiling()))
    experiment = with_steps(resolve(experiment, dataset.tokenizer, dataset.labels), dataset, log)
    check_mesh(experiment, mesh)
    _check_model(experiment)
    check_run_directory(experiment, allowed)
    make_train_batches(dataset, experiment)  # refuses, among others, a mixture that ends before the run
    _check_alike(experiment, dataset, allowed)
    return experiment, mesh, dataset


def _warn_of_unlike_processors() -> None:
    """Say if programs for the CPU are not the same in all processes."""
    kinds = texts_of_all(processor_kind())
    unlike = next((index for index, kind in enumerate(kinds) if kind != kinds[0]), None)
    if unlike is not None and is_main() and jax.default_backend() == "cpu":
        warn(
            f"process {unlike} has another kind of processor than process 0: if they round otherwise, the "
            "first save ends the job; use machines of one kind"
        )


def check_host_memory(experiment: Experiment, mesh: Mesh) -> None:
    """Refuse to offload where devices have no memory of the host to themselves."""
    device = mesh.local_devices[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST_MEMORY in kinds:
        return
    offloads = {}
    if experiment.optimizer.offload:
        offloads["optimizer.offload=True"] = "leave it False"
    for entry in experiment.model.remat_tensors:
        name, how = entry.split("=")
        if how == "offload":
            offloads[f"model.remat_tensors={entry}"] = f"use {name}=save or {name}=recompute"
    if offloads:
        setting, fix = next(iter(offloads.items()))
        raise ValueError(
            f"{setting} needs the memory {HOST_MEMORY}, and this {device.device_kind} has "
            f"{', '.join(kinds)}; {fix}"
        )


def _check_model(experiment: Experiment) -> None:
    """Refuse patterns of optimizer.freeze that fit nothing, a best.metric that no evaluation gives, and a
    callback's metric that evaluations have already."""
    count_trained(experiment.optimizer.freeze, experiment.model)
    for name, callback in metrics_of_callbacks(experiment.callbacks).items():
        if evaluation_names(experiment).count(name) > 1:
            raise ValueError(
                f"callback {callback} measures {name}, which evaluations have already; rename it"
            )
    if experiment.best.metric is not None:
        check_best(experiment.best, evaluation_names(experiment), experiment.eval_every)


def _check_alike(experiment: Experiment, dataset: AnyDataset, allowed: Allowed) -> None:
    """Refuse to start if the processes were given different things: they would hang, or train on other rows.

    Raises:
      ValueError: in every process; a process that differs from process 0 says how.
    """
    own = {
        "config": to_dict(experiment),
        "flags": allowed._asdict(),
        "dataset": dataset.fingerprint,
        "versions": versions(),
    }
    main = json.loads(agree_on(json.dumps(own)))
    names = [name for name in ("flags", "dataset", "versions") if main[name] != own[name]]
    how = [f"{name} {main[name]} -> {own[name]}" for name in names]
    if main["config"] != own["config"]:
        how.append(describe_differences(differences(from_dict(main["config"]), experiment)))
    if any_process(bool(how)):
        where = f"process 0 -> here: {'; '.join(how)}" if how else "another process says how"
        raise ValueError(
            f"the processes of this job were not started the same way ({where}); start all the same way"
        )


def open_outputs(
    stack: ExitStack, directory: Path, experiment: Experiment, allowed: Allowed
) -> tuple[MetricsWriter, Trackers]:
    """Lock the run, and open the files and trackers for its rows.

    Raises:
      ValueError: another job has the run, or has changed it into another run before this job got the lock.
    """
    stack.enter_context(lock_run_directory(directory))
    check_run_directory(experiment, allowed)  # again: another job may have changed it before the lock
    writer = stack.enter_context(MetricsWriter(directory / METRICS_FILE))
    trackers = Trackers(experiment.trackers, directory, directory.name, to_dict(experiment), warn)
    stack.enter_context(trackers)
    return writer, trackers


def describe_job(job: Job, start: Start) -> str:
    """One line: what is trained, from where to where, on what."""
    experiment, model, first = job.experiment, job.experiment.model, int(start.state.step)
    axes = describe_shape(job.mesh.shape)
    num_tokens = job.dataset.statistics["train"]["num_tokens"]
    kinds = np.unique([device.device_kind for device in job.mesh.devices.flat])
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    imported = start.checkpoint_step == IMPORTED_STEP
    where = f"in {job.directory}"
    if first == experiment.steps:
        begins = f"{where} has done all its"
    elif first:
        begins = f"continues {where} at step {first} of"
    else:
        begins = f"trains{' imported weights' if imported else ''} {where} for"
    total, trained = count_params(model), count_trained(experiment.optimizer.freeze, model)
    active = count_params(model, active=True)
    parts = {"active": active, "trained": trained}
    said = [f"{short_number(count)} {what}" for what, count in parts.items() if count != total]
    share = f" ({', '.join(said)})" if said else ""
    experts = f"{model.num_experts} experts, " if model.num_experts is not None else ""
    return (
        f"{experiment.name} {begins} {experiment.steps} steps: "
        f"{short_number(total)} parameters{share}, {model.num_layers} layers of {model.embed_dim}, "
        f"{experts}vocabulary {model.vocab_size}; {short_number(num_tokens)} tokens of text; "
        f"{', '.join(kinds)}: {axes}{processes}"
    )


def say_nothing(text: str) -> None:
    """Print nothing, in the processes that are not the main one."""

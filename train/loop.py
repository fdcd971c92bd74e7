"""The training loop, top to bottom: mesh, data, model, state or restore, step, log, save, evaluate."""

import dataclasses
import functools
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import jax

from flaxmill.data.batches import Batches
from flaxmill.data.card import card_as_json
from flaxmill.data.mixture.mixed_batches import MixedBatches
from flaxmill.data.mixture.mixed_dataset import parts_of
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.model.params import Params
from flaxmill.sharding.processes.coordination import agree_on, is_main
from flaxmill.sharding.processes.step_signals import Signals, Stop
from flaxmill.sharding.processes.watch import Peers
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.compilation.ahead import Ahead
from flaxmill.train.compilation.programs import Programs
from flaxmill.train.evaluation import (
    compare_with_counting,
    describe_evaluation,
    evaluate_all,
    summarize_evaluation,
)
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import DivergenceError
from flaxmill.train.inference.evaluated import Evaluated, call_callbacks
from flaxmill.train.inference.reference import REFERENCE_FILE, attach_reference
from flaxmill.train.inference.samples import compile_continuation, sample_text
from flaxmill.train.input_pipeline import HeldOut, make_held_out, make_train_batches, read_ahead
from flaxmill.train.job import ChooseMesh, Job, describe_job, open_outputs, prepare_all, say_nothing
from flaxmill.train.metrics.callbacks import CallbackError, metrics_of_callbacks
from flaxmill.train.metrics.progress import ProgressLine, warn
from flaxmill.train.objectives.table import CONTINUATION
from flaxmill.train.optimizer.schedule import describe_jump
from flaxmill.train.recorder import LossSpike, Recorder
from flaxmill.train.rollback import describe_rollback, roll_back
from flaxmill.train.run.bad_batches import write_bad_batches
from flaxmill.train.run.data_card import write_data_card
from flaxmill.train.run.directory import (
    CHECKPOINTS,
    IMPORTED_STEP,
    Allowed,
    open_run_directory,
    write_config,
)
from flaxmill.train.run.mesh_fit import in_zigzag
from flaxmill.train.run.restoring import Origin, Start
from flaxmill.train.run.samples import write_sample
from flaxmill.train.saving import Saver
from flaxmill.train.state import TrainState


class TrainResult(NamedTuple):
    """Where the run is, how far it came, and the metrics of its last evaluation. They are the best
    evaluation's if the run follows one, and empty if it was preempted."""

    directory: Path
    step: int
    preempted: bool
    metrics: dict[str, float]


def train(
    experiment: Experiment,
    *,
    extend: bool = False,
    allow_other_data: bool = False,
    allow_other_objective: bool = False,
    stop: Stop | None = None,
    peers: Peers | None = None,
    heading: str = "",
    choose_mesh: ChooseMesh | None = None,
) -> TrainResult:
    """Train, or continue, one experiment; all processes of a job call it in the same way.

    Args:
      extend: allow more `steps` than the run directory's config has.
      allow_other_data: continue on a text or tokenizer other than the checkpoint's.
      allow_other_objective: continue though the file that defines the objective has changed.
      stop: asked after every step; when it says so the run saves and returns with `preempted`.
      peers: is told how far this process has come.
      heading: printed first, once the experiment has passed its checks.
      choose_mesh: gives the mesh, in place of the experiment's own.

    Raises:
      ValueError: the user's mistake, before anything is trained.
      DivergenceError: too many steps in a row had a loss or gradient that was not finite, or too many spikes.
      CheckpointError, OSError: no checkpoint is whole, or one could not be written.
    """
    peers = peers or Peers(heartbeat_seconds=60, stall_seconds=1800)
    allowed = Allowed(extend, allow_other_data, allow_other_objective)
    with ExitStack() as stack:
        ahead = stack.enter_context(Ahead())  # compiles while the data are prepared
        experiment, mesh, dataset = prepare_all(experiment, allowed, ahead, choose_mesh)
        programs = ahead.programs(experiment, mesh)
        directory = Path(agree_on(str(open_run_directory(experiment)) if is_main() else ""))
        experiment = dataclasses.replace(experiment, run_dir=str(directory))
        writer = trackers = None
        if is_main():  # all processes write the checkpoints together; the main one alone writes the rest
            writer, trackers = open_outputs(stack, directory, experiment, allowed)
            if heading:
                print(heading, flush=True)
        stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(Checkpoints(directory / CHECKPOINTS, experiment.checkpoint))
        job = Job(experiment, mesh, dataset, directory, checkpoints, writer, trackers, stop, peers, ahead)
        return _run(job, _make_steps(job, programs), allow_other_data)


def _run(job: Job, steps: "_Steps", allow_other_data: bool) -> TrainResult:
    """Train from where the run starts; after a spike of the loss, again from before the spike."""
    experiment = job.experiment
    origin = Origin(
        experiment,
        steps.programs.optimizer,
        steps.programs.init,
        job.mesh,
        job.dataset,
        job.checkpoints,
        allow_other_data=allow_other_data,
        warn=warn if is_main() else say_nothing,
    )
    job.peers.at(0, "restoring")
    job.ahead.wait_for("start")
    start = origin.start()
    if is_main():  # only now: if anything above refuses, the run directory must stay untouched
        write_config(job.directory, experiment, job.dataset.tokenizer)
        parts = parts_of(job.dataset)
        write_data_card(job.directory, {source: card_as_json(part) for source, part in parts.items()})
    if experiment.definition.sample == CONTINUATION:  # other samples are compiled when they are shown
        compile_sample = functools.partial(compile_continuation, experiment, job.dataset.tokenizer, job.mesh)
        job.ahead.begin_later("sample", compile_sample, job.mesh)
    with ProgressLine(int(start.state.step), experiment.steps, quiet=not is_main()) as progress:
        progress.say(describe_job(job, start))
        old_steps = start.metadata.get("config", {}).get("steps", experiment.steps)
        if experiment.definition.has_reference:
            _attach_reference(job, start, origin, progress)
        if jump := describe_jump(experiment.optimizer, old_steps, experiment.steps, int(start.state.step)):
            progress.say(jump)
        while True:
            recorder = Recorder(
                experiment,
                job.mesh,
                job.writer,
                job.trackers,
                progress,
                start.metadata,
                steps.train_batches.max_predictions,
            )
            try:
                return _train_from(start, job, steps, recorder, progress)
            except DivergenceError as error:
                raise _with_batches(error, job, steps.train_batches) from None
            except LossSpike as found:
                spike = found.with_traceback(None)  # a traceback holds the state: two need not fit at once
            before, start = start.metadata, None
            job.checkpoints.wait()
            job.peers.at(0, "restoring")
            start, row = roll_back(spike, before, origin.start(only_scheduled=True))
            job.checkpoints.abandon_after(row["step"])
            recorder.write(row)
            progress.say(describe_rollback(row))


def _attach_reference(job: Job, start: Start, origin: Origin, progress: ProgressLine) -> None:
    """Give the rows the log-probabilities of their answers before training."""
    assert isinstance(job.dataset, Dataset), "labelled examples are not mixed"
    is_initial = start.checkpoint_step in (None, IMPORTED_STEP)
    attach_reference(
        job.experiment,
        job.mesh,
        job.dataset,
        job.directory / REFERENCE_FILE,
        (lambda: start.state.params) if is_initial else origin.initial_params,
        is_initial=is_initial,
        say=progress.say,
        tell=lambda what: job.peers.at(0, what),
    )


class _Steps(NamedTuple):
    """What is computed, and on which rows."""

    programs: Programs
    train_batches: Batches | MixedBatches
    held_out: HeldOut


def _make_steps(job: Job, programs: Programs) -> _Steps:
    train_batches = make_train_batches(job.dataset, job.experiment)
    return _Steps(programs, train_batches, make_held_out(job.dataset, job.experiment))


def _train_from(
    start: Start, job: Job, steps: _Steps, recorder: Recorder, progress: ProgressLine
) -> TrainResult:
    """Step, record, save and evaluate from a state to the end of the run."""
    experiment, best = job.experiment, recorder.best
    state, first = start.state, int(start.state.step)
    saver = Saver(job, recorder, progress, start.checkpoint_step)
    signals = Signals(job.mesh, job.stop, saver.is_overdue)
    evaluate_at = functools.partial(_evaluate, job, steps, recorder, signals, saver)

    # If the run was stopped right after this step, its evaluation may be missing: do it now. A run that waits
    # for nothing better ends here, and with an evaluation.
    evaluates = first > 0 and (_evaluates_at(first, experiment) or best.is_waited_out)
    evaluated = evaluate_at(first, state) if evaluates else None

    done, last = first, first if best.is_waited_out else experiment.steps
    job.peers.at(first, "compiling")
    job.ahead.wait_for("train_step")
    zigzag = in_zigzag(job.experiment)
    offset = recorder.batch_offset
    ahead = read_ahead(steps.train_batches, job.mesh, first, last, zigzag=zigzag, batch_offset=offset)
    with closing(ahead) as batches:
        for step, batch, data_seconds in batches:
            state, metrics = steps.programs.train_step(state, batch, signals.inputs())
            job.ahead.begin_rest()
            if job.stop is not None:
                job.stop.started()
            recorder.record(step, metrics, data_seconds)
            done = step + 1
            job.peers.at(done, "training")
            job.checkpoints.raise_if_failed()  # not only at the next save, which may be hours away

            # All processes learn at the same step that one of them was told to stop.
            asked = signals.agreed(recorder.signals)
            if asked.stop:
                return _leave(done, state, saver, job)

            # Save before the evaluation: a run killed while it evaluates loses nothing.
            evaluates = _evaluates_at(done, experiment)
            if saver.is_due(done, asked.save) or done == last or (evaluates and best.is_followed):
                saver.save(done, state)

            # The last step is evaluated too. An evaluation that a signal ends is made when the run continues.
            if evaluates:
                evaluated = evaluate_at(done, state)
                if evaluated is None:
                    return _leave(done, state, saver, job)
                if done < experiment.steps:
                    progress.say(f"step {done}: {summarize_evaluation(evaluated, experiment.best.metric)}")
                if best.is_waited_out:
                    break
    if evaluated is None:
        return _leave(done, state, saver, job)

    # The run is over: all of it is on disk before it says so.
    saver.wait()
    if best.is_followed:
        progress.say(f"{'stopped early: ' if done < experiment.steps else ''}{best.describe()}")
    return _conclude(done, job, steps, state.params, best.metrics or evaluated, progress)


def _leave(step: int, state: TrainState, saver: Saver, job: Job) -> TrainResult:
    """The result of a run that was asked to stop, once all of it is saved."""
    saver.leave(step, state)
    return TrainResult(job.directory, step, True, {})


def _evaluate(
    job: Job, steps: _Steps, recorder: Recorder, signals: Signals, saver: Saver, step: int, state: TrainState
) -> dict[str, float] | None:
    """Measure the held-out rows and write what was found; None where a signal came first.

    Raises:
      CallbackError: a callback failed; the run is saved, so that it continues when the callback is mended.
    """
    experiment = job.experiment
    recorder.flush()
    tell = lambda number: job.peers.at(step, f"evaluating batch {number}")  # noqa: E731
    job.ahead.wait_for("eval_step")
    eval_step, held_out = steps.programs.eval_step, steps.held_out
    metrics = evaluate_all(eval_step, state.params, held_out, experiment, job.mesh, signals, tell)
    if metrics is not None and experiment.callbacks:
        job.peers.at(step, "calling callbacks")
        tokenizer, rows = job.dataset.tokenizer, held_out.first
        try:
            metrics |= call_callbacks(
                Evaluated(experiment, state.params, job.mesh, tokenizer, rows, job.directory, step, metrics)
            )
        except CallbackError:
            saver.leave(step, state)
            raise
    recorder.record_evaluation(step, metrics)
    return metrics


def _conclude(
    step: int, job: Job, steps: _Steps, params: Params, evaluated: dict[str, float], progress: ProgressLine
) -> TrainResult:
    """Print the last evaluation, or the best, beside what counting reaches, and a sample."""
    experiment, dataset = job.experiment, job.dataset
    compared = compare_with_counting(evaluated, experiment.objective, dataset.statistics["valid"])
    of_callbacks = metrics_of_callbacks(experiment.callbacks)
    progress.say(describe_evaluation(compared, of_callbacks))
    # A sample is decoded on one host; for labelled examples `flaxmill eval` writes the predictions.
    if jax.process_count() == 1 and experiment.definition.sample is not None:
        job.ahead.wait_for("sample")
        sample = sample_text(experiment, params, steps.held_out.first, dataset.tokenizer, job.mesh)
        progress.say(f"\n{sample}")
        write_sample(job.directory, step, sample)
    progress.say(f"\nsaved in {job.directory}")
    return TrainResult(job.directory, step, False, compared)


def _with_batches(error: DivergenceError, job: Job, batches: Batches | MixedBatches) -> DivergenceError:
    """The error, with the place where its batches were written; all processes wait until they are."""
    written = agree_on(write_bad_batches(job.directory, batches, error.batches) if is_main() else "")
    numbers = ", ".join(map(str, error.batches))
    return DivergenceError(f"{error}; batch {numbers}: {written}", error.batches)


def _evaluates_at(step: int, experiment: Experiment) -> bool:
    """Whether an evaluation is due after this many updates: every `eval_every`, and after the last."""
    every = experiment.eval_every
    return step == experiment.steps or (every is not None and step % every == 0)

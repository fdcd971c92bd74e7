"""`flaxmill train`: trains a config, or continues its run."""

import functools
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from flaxmill.sharding.mesh import AXES, MeshConfig
from flaxmill.sharding.processes.launch import find_launch
from flaxmill.sharding.processes.stop_signal import EXIT_PREEMPTED
from flaxmill.train.experiment import Experiment
from flaxmill.train.named_configs import CONFIG_USAGE, DEFAULT_CONFIG, take_config
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.run.directory import Allowed, describe_differences, differences, has_checkpoint
from flaxmill.train.run.seeds import describe_spread, seeded

if TYPE_CHECKING:
    from flaxmill.sharding.processes.stop_signal import StopSignal
    from flaxmill.sharding.processes.watch import Peers
    from flaxmill.train.job import ChooseMesh

DESCRIPTION = f"""Trains CONFIG, a name that `flaxmill configs` lists, or FILE.py, which defines `config`;
if neither is given, the config of the run in --run-dir, or {DEFAULT_CONFIG}. CONFIG comes first; its fields
follow, shown below with the values that it gives them. If --run-dir holds checkpoints, the run continues from
the newest."""
MOST_MINUTES = 1_000_000  # two years; a thread cannot wait for much more


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What `flaxmill train` takes."""

    extend: bool = False
    """Let the run in --run-dir continue to more steps than it was started with."""
    allow_other_data: bool = False
    """Let the run in --run-dir continue on a text or tokenizer other than its own."""
    allow_other_objective: bool = False
    """Let the run in --run-dir continue though the file that defines its objective has changed."""
    auto_mesh: bool = False
    """Choose the sizes of the mesh for the devices at hand, by the estimate of `flaxmill plan`."""
    minutes: float | None = None
    """Save and stop, with exit code 75, after so many minutes; the same command goes on. None: no limit."""
    dry_run: bool = False
    """Do all that comes before the first step, print what the run would be, and end; it makes no run."""
    num_seeds: int | None = None
    """Train this many runs, of seeds from --seed on, in folders of --run-dir; print means and deviations."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if there are many; None: as Slurm, Open MPI, JobSet or a TPU pod say."""
    num_processes: int | None = None
    """How many processes the job has; None: as above, or one."""
    process_index: int | None = None
    """Which of the processes this is, from 0."""
    heartbeat_seconds: int = 60
    """Seconds of silence after which another process counts as dead, and all end."""
    stall_seconds: int = 1800
    """Seconds without any progress after which the process that is furthest behind counts as stuck."""
    config: Annotated[Experiment, INLINE]

    def __post_init__(self) -> None:
        for name in ("heartbeat_seconds", "stall_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1 second")
        if self.minutes is not None and not 0 < self.minutes <= MOST_MINUTES:
            raise ValueError(f"minutes={self.minutes} must be above 0 and at most {MOST_MINUTES:,}, or None")


def run(arguments: list[str], stop: "StopSignal") -> int:
    """Train; returns the exit code: 75 where a signal, or --minutes, ended it before its last step."""
    named, rest = take_config(arguments)
    parsed = override(
        TrainArguments(config=named),
        rest,
        program="flaxmill train",
        usage=CONFIG_USAGE,
        description=DESCRIPTION,
    )
    if parsed.auto_mesh:
        _refuse_sizes(rest, parsed.config.mesh)
    if parsed.minutes is not None:
        _stop_after(parsed.minutes, stop)
    config, num_seeds = parsed.config, parsed.num_seeds
    experiments = [config] if num_seeds is None else seeded(config, num_seeds)
    stop.prepares(functools.partial(has_checkpoint, experiments[0]))
    launch = find_launch(
        os.environ,
        coordinator=parsed.coordinator,
        num_processes=parsed.num_processes,
        process_index=parsed.process_index,
    )
    if launch is None:  # the processes of a job refuse together, once they have met
        from flaxmill.train.run.early_refusals import refuse_early  # help does not need it

        for experiment in experiments:
            refuse_early(experiment, has_mesh=not parsed.auto_mesh)
    # All that can be refused without JAX has been refused: importing it takes a second.
    from flaxmill.sharding.processes.coordination import MeetingStoppedError, start_processes
    from flaxmill.sharding.processes.watch import Peers
    from flaxmill.train.metrics.progress import warn

    peers = Peers(heartbeat_seconds=parsed.heartbeat_seconds, stall_seconds=parsed.stall_seconds)
    if launch is not None:
        job = f"{config.name} in {config.run_dir or 'a new directory'}"
        try:
            start_processes(launch, heartbeat_seconds=parsed.heartbeat_seconds, job=job, say=warn, stop=stop)
        except MeetingStoppedError as stopped:
            if not stop.requested:  # else this process has said it itself
                print(f"flaxmill: {stopped}", file=sys.stderr)
            return stopped.code
    with peers:
        stop.leave = peers.leave
        return _train_all(experiments, named, parsed, stop, peers)


def _train_all(
    experiments: list[Experiment],
    named: Experiment,
    parsed: TrainArguments,
    stop: "StopSignal",
    peers: "Peers",
) -> int:
    # Import inside the watch: a process that is still loading libraries must already send heartbeats.
    from flaxmill.sharding.processes.coordination import any_process, is_main
    from flaxmill.train.loop import train

    choose_mesh = _chooser() if parsed.auto_mesh else None
    if parsed.dry_run:
        from flaxmill.train.plan.dry_run import dry_run  # here, since it loads the planner

        allowed = Allowed(parsed.extend, parsed.allow_other_data, parsed.allow_other_objective)
        return dry_run(experiments[0], allowed, choose_mesh, _heading(named, experiments[0]))
    results = []
    for experiment in experiments:
        if results and any_process(stop.requested):
            return EXIT_PREEMPTED
        stop.prepares(functools.partial(has_checkpoint, experiment))
        result = train(
            experiment,
            extend=parsed.extend,
            allow_other_data=parsed.allow_other_data,
            allow_other_objective=parsed.allow_other_objective,
            stop=stop,
            peers=peers,
            heading=_heading(named, experiment),
            choose_mesh=choose_mesh,
        )
        if result.preempted:
            return EXIT_PREEMPTED
        results.append(result.metrics)
    if len(results) > 1 and is_main():
        print(f"\n{describe_spread(results)}")
    return 0


def _stop_after(minutes: float, stop: "StopSignal") -> None:
    reason = "1 minute has passed" if minutes == 1 else f"{minutes:g} minutes have passed"
    timer = threading.Timer(60 * minutes, stop.ask, [reason])
    timer.daemon = True  # the command may end before
    timer.start()


def _refuse_sizes(arguments: list[str], mesh: MeshConfig) -> None:
    """Refuse sizes of the mesh beside --auto-mesh, even those that the config has too."""
    given = {argument.partition("=")[0] for argument in arguments}
    for name in (*AXES, "slices"):
        if f"--mesh.{name}" in given:
            raise ValueError(
                f"mesh.{name}={getattr(mesh, name)} is set beside --auto-mesh, which chooses all sizes; "
                f"leave out --mesh.{name}, or --auto-mesh"
            )


def _chooser() -> "ChooseMesh":
    from flaxmill.train.plan.auto_mesh import choose_mesh  # here, since it loads the planner

    return choose_mesh


def _heading(named: Experiment, experiment: Experiment) -> str:
    changed = differences(named, experiment)
    return f"{named.name}: {describe_differences(changed) if changed else 'as configured'}"

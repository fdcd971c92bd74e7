"""The proof itself: the straight run, the killed run, the run that continues it, and the comparisons."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.sharding.mesh import describe_shape
from flaxmill.train.checkpoint.damage import load_manifest, read_array
from flaxmill.train.checkpoint.manifest import DefectError
from flaxmill.train.experiment import Experiment, from_dict
from flaxmill.train.failures import RunError
from flaxmill.train.metrics.metrics_file import MetricsRow, read_metrics
from flaxmill.train.run.directory import CHECKPOINTS, METRICS_FILE, describe_differences, differences
from flaxmill.train.verify_resume.comparison import (
    ReadArray,
    ResumeCheck,
    Tolerances,
    compare_arrays,
    compare_arrays_within,
    compare_counters,
    compare_evaluations,
    compare_steps,
    compare_steps_within,
)
from flaxmill.train.verify_resume.killed_runs import Kill, probe_trials, run_to_end, run_until_killed
from flaxmill.train.verify_resume.report import Section, find_first
from flaxmill.train.verify_resume.trial import TrialRequest, write_trial

Say = Callable[[str], None]

SAVED_BY = 0.7  # of the steps up to the kill: steps after the checkpoint are made twice
GPU_PLATFORMS = ("gpu", "cuda", "rocm")
DETERMINISTIC_FLAGS = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")
GPU_WARNING = (
    "warning: on a GPU, XLA may choose other kernels in each process, and kernels that add in any order: "
    "runs may differ in the last bits; export XLA_FLAGS=--xla_gpu_deterministic_ops=true where they must not"
)

# Devices add in another order, and the steps carry that rounding on. A gradient shows more of it than a loss:
# where the input of a norm nearly cancels, it is divided by next to nothing. Adam's moments hold gradients.
_FLOAT32 = Tolerances(loss=1e-5, grad_norm=1e-2, parameters=1e-5, optimizer_state=1e-2)
_BFLOAT16 = Tolerances(loss=1e-2, grad_norm=1e-1, parameters=1e-2, optimizer_state=1e-1)  # 8 bits, not 24
TOLERANCES = {"float32": _FLOAT32, "float64": _FLOAT32, "bfloat16": _BFLOAT16}


class Proof(NamedTuple):
    """What was run and compared, and what follows from it."""

    title: str
    sections: list[Section]
    conclusion: str
    described: dict[str, Any]

    @property
    def proved(self) -> bool:
        return all(section.passed for section in self.sections)


class ProofResult(NamedTuple):
    """What a run leaves at its end."""

    rows: list[MetricsRow]
    arrays: dict[str, Any]
    metadata: dict[str, Any]
    read: ReadArray


def prove(arguments: list[str], asked: TrialRequest, directory: Path, say: Say) -> Proof:
    """Make the runs in `directory`, and compare them.

    Raises:
      ValueError: the config cannot be trained on these devices.
      RunError: a run failed, or was over before it could be killed.
    """
    num_steps = asked.parsed.num_steps
    straight, killed, moved = (directory / name for name in ("straight", "killed", "moved"))
    trials: list[dict[str, Any]] = [
        dict(arguments=arguments, run_dir=str(straight), save_every=num_steps),
        dict(arguments=arguments, run_dir=str(killed), save_every=_save_every(_kill_after(asked))),
    ]
    if asked.other_mesh:
        trials.append(trials[1] | dict(run_dir=str(moved), on_mesh_after=True))
    probed = probe_trials(trials)
    trial = from_dict(probed["experiments"][1])
    title = _title(asked.named, trial)
    if _may_vary(probed["platform"], os.environ.get("XLA_FLAGS", "")):
        say(GPU_WARNING)
    config = write_trial(straight.with_suffix(".py"), trials[0])
    say(f"straight run of {num_steps} steps: its output is in {config.with_suffix('.log')}")
    seconds = {"straight": run_to_end(config, "the straight run", refusal=ValueError)}
    say(f"straight run: {num_steps} steps in {seconds['straight']:.0f} s")
    kill = _kill(trials[1], asked, say)
    last = kill.rows[-1]["step"]
    say(f"killed by SIGKILL with the row of step {last} on disk; newest checkpoint: {kill.checkpoint}")
    if asked.other_mesh:
        shutil.copytree(killed, moved)
    config = killed.with_suffix(".py")
    seconds["continued"] = run_to_end(config, "the killed run, when it was to continue,")
    say(f"continued: from step {kill.checkpoint} to {num_steps} in {seconds['continued']:.0f} s")
    wanted = _read(straight, num_steps)
    sections = _compare(wanted, kill, _read(killed, num_steps), num_steps)
    if asked.other_mesh:
        config = write_trial(moved.with_suffix(".py"), trials[2])
        seconds["moved"] = run_to_end(config, "the killed run, when it was to continue on the other mesh,")
        found = _read(moved, num_steps)
        say(f"continued on {_mesh(found)} in {seconds['moved']:.0f} s")
        sections.append(_compare_moved(wanted, kill, found, num_steps, trial.model.dtype))
    described = {
        "config": trial.name,
        "changed": title,
        "num_steps": num_steps,
        "killed_after": last,
        "checkpoint": kill.checkpoint,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "device": probed["device"],
        "mesh": wanted.metadata.get("mesh"),
        "versions": wanted.metadata.get("versions"),
    }
    return Proof(title, sections, _conclude(sections, num_steps), described)


def _may_vary(platform: str, flags: str) -> bool:
    """Whether two processes may compute different last bits."""
    return platform in GPU_PLATFORMS and not any(flag in flags for flag in DETERMINISTIC_FLAGS)


def _kill_after(asked: TrialRequest) -> int:
    given = asked.parsed.kill_after
    return max(1, asked.parsed.num_steps // 2 - 1) if given is None else given


def _save_every(kill_after: int) -> int:
    return max(1, int(SAVED_BY * kill_after))


def _kill(trial: dict[str, Any], asked: TrialRequest, say: Say) -> Kill:
    """Kill a run between two checkpoints; if it was over too soon, run it again and kill it earlier."""
    kill_after, run_dir = _kill_after(asked), Path(trial["run_dir"])
    for attempt in (kill_after, max(1, kill_after // 2), 1):
        config = write_trial(run_dir.with_suffix(".py"), trial | {"save_every": _save_every(attempt)})
        kill = run_until_killed(config, run_dir, attempt, asked.parsed.num_steps)
        if kill is not None:
            return kill
        say(
            f"the run was over before the kill after step {attempt} could reach it; it is made again and "
            "killed earlier"
        )
        shutil.rmtree(run_dir)
    raise RunError(
        f"{asked.parsed.num_steps} steps are over before a checkpoint is written and the process killed; "
        f"give --num-steps {10 * asked.parsed.num_steps}"
    )


def _read(run_dir: Path, step: int) -> ProofResult:
    checkpoint = run_dir / CHECKPOINTS / str(step)
    rows = list(read_metrics(run_dir / METRICS_FILE))
    if back := [row["step"] for row in rows if "rollback_from" in row]:
        raise RunError(
            f"the loss spiked and the run went back to step {back[0]}, so that a step has more than one row; "
            "give --spike.threshold None"
        )
    try:
        manifest = load_manifest(checkpoint)
    except DefectError as defect:
        raise RunError(f"{checkpoint} is damaged: {defect}") from None
    return ProofResult(
        rows, manifest["arrays"], manifest["metadata"], lambda name: read_array(checkpoint, name)
    )


def _compare(wanted: ProofResult, kill: Kill, found: ProofResult, num_steps: int) -> list[Section]:
    after = found.rows[len(kill.rows) :]
    until = range(kill.rows[-1]["step"] + 1)
    arrays = compare_arrays(wanted.arrays, found.arrays, wanted.read, found.read)
    checks = [
        _continues(after, kill.checkpoint),
        *compare_steps(wanted.rows, after, range(kill.checkpoint, num_steps)),
        compare_evaluations(wanted.rows, after),
        *arrays,
        compare_counters(wanted.metadata, found.metadata),
    ]
    return [
        Section("until the kill", compare_steps(wanted.rows, kill.rows, until)),
        Section("continued", checks),
    ]


def _compare_moved(
    wanted: ProofResult, kill: Kill, found: ProofResult, num_steps: int, dtype: str
) -> Section:
    after, steps = found.rows[len(kill.rows) :], range(kill.checkpoint, num_steps)
    checks = [
        _continues(after, kill.checkpoint),
        *compare_steps_within(wanted.rows, after, steps, TOLERANCES[dtype]),
        *compare_arrays_within(wanted.arrays, found.arrays, wanted.read, found.read, TOLERANCES[dtype]),
        compare_counters(wanted.metadata, found.metadata, exact=False),
    ]
    return Section(f"continued on {_mesh(found)}", checks)


def _continues(rows: Sequence[MetricsRow], checkpoint: int) -> ResumeCheck:
    """Check that the run continues: without this, a run that began again from step 0 would pass."""
    began = rows[0]["step"] if rows else None
    first = "" if began == checkpoint else f"its first row is of step {began}, not {checkpoint}"
    return ResumeCheck("begins", f"at checkpoint {checkpoint}", not first, first)


def _mesh(result: ProofResult) -> str:
    return describe_shape(result.metadata["mesh"])


def _title(named: Experiment, trial: Experiment) -> str:
    changed = [item for item in differences(named, trial) if item[0] != "run_dir"]
    return f"{trial.name}: {describe_differences(changed)}"


def _conclude(sections: Sequence[Section], num_steps: int) -> str:
    if all(section.passed for section in sections):
        within = ", and within the tolerances on the other mesh" if len(sections) > 2 else ""
        return f"proved: in {num_steps} steps the killed run equals the straight one, bit for bit{within}"
    section, check = find_first(sections)
    text = f"not proved: {section.title}, {check.name} differs, first {check.first}"
    if section is sections[0]:
        text += "; that was before the kill, so even two straight runs of this config differ"
    return text

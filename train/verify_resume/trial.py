"""What `flaxmill verify-resume` is asked for, and the experiment that each of its processes runs."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment, to_dict
from flaxmill.train.jax_environment import explain
from flaxmill.train.named_configs import CONFIG_USAGE, take_config
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.run.mesh_fit import check_mesh

MIN_STEPS = 4  # one before the checkpoint, one that is made twice, one being made at the kill, one more
MAX_EVAL_BATCHES = 2

DESCRIPTION = """Proves on CONFIG that a killed run continues exactly. It trains for a few steps straight, and
again in a process that is killed by SIGKILL half-way and another that continues. Then it compares every loss,
gradient norm, batch and random key, and every array of the last checkpoint, bit for bit. With
--mesh-after.data, --mesh-after.fsdp or --mesh-after.tensor the killed run is also continued on that mesh, and
compared within tolerances. Exit code 1: something differs, or could not be shown."""


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """What `flaxmill verify-resume` takes."""

    num_steps: int = 20
    """Steps of each run; the config's learning-rate schedule is fitted to them."""
    kill_after: int | None = None
    """Kill the process once the row of this step is on disk; None: half-way."""
    shrink: bool = False
    """Make the model, the rows and the batch small, but of the same kind; what changes is printed."""
    keep: bool = False
    """Keep the runs; without it they are deleted once resume is proved."""
    json: bool = False
    """Print one JSON object instead of a table."""
    mesh_after: MeshConfig = field(default_factory=MeshConfig)
    """A mesh to continue on as well; none unless an axis of it is given."""
    config: Annotated[Experiment, INLINE]

    def __post_init__(self) -> None:
        if self.num_steps < MIN_STEPS:
            raise ValueError(f"num_steps={self.num_steps} is too few to interrupt; use {MIN_STEPS} or more")
        last = self.num_steps - 3
        if self.kill_after is not None and not 1 <= self.kill_after <= last:
            raise ValueError(
                f"kill_after={self.kill_after} must be in [1, {last}], so that steps follow and precede it; "
                "change it or num_steps"
            )


class TrialRequest(NamedTuple):
    """The parsed arguments, the config that they began from, and whether another mesh was named."""

    parsed: VerifyArguments
    named: Experiment
    other_mesh: bool


def read_arguments(arguments: list[str]) -> TrialRequest:
    """Parse `[CONFIG | FILE.py] [--field value ...]`; raises ValueError, or SystemExit(0) after help."""
    named, rest = take_config(arguments)
    parsed = override(
        VerifyArguments(config=named),
        rest,
        program="flaxmill verify-resume",
        usage=CONFIG_USAGE,
        description=DESCRIPTION,
    )
    flags = [argument.replace("_", "-") for argument in rest]
    return TrialRequest(parsed, named, any(flag.startswith("--mesh-after.") for flag in flags))


def trial(arguments: list[str], run_dir: str, save_every: int, on_mesh_after: bool = False) -> Experiment:
    """The user's experiment as one of the runs makes it; a config file is run again in each process."""
    asked = read_arguments(arguments)
    parsed, config = asked.parsed, asked.parsed.config
    if parsed.shrink:
        from flaxmill.train.verify_resume.shrink import shrink

        meshes = [config.mesh, *([parsed.mesh_after] if asked.other_mesh else [])]
        config = shrink(config, [_axes(mesh) for mesh in meshes])
    return dataclasses.replace(
        config,
        steps=parsed.num_steps,
        epochs=None,
        run_dir=run_dir,
        log_every=1,
        log_digests=True,
        eval_every=None,
        best=BestConfig(),  # without evaluations on the way there is none to follow
        eval_batches=min(config.eval_batches or MAX_EVAL_BATCHES, MAX_EVAL_BATCHES),
        trackers=(),
        callbacks=(),
        mesh=parsed.mesh_after if on_mesh_after else config.mesh,
        # A checkpoint that is not whole is a finding here: nothing may fall back on an older one.
        checkpoint=dataclasses.replace(
            config.checkpoint, every=save_every, every_minutes=None, fallback=False
        ),
    )


def write_trial(path: Path, settings: dict[str, Any]) -> Path:
    """Write a config file for `flaxmill train` with the experiment that `trial` makes."""
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    path.write_text(
        '"""A run of `flaxmill verify-resume`; `flaxmill train` on this file continues it."""\n\n'
        "from flaxmill.train.verify_resume.trial import trial\n\n"
        f"config = trial({given})\n",
        encoding="utf-8",
    )
    return path


def probe() -> None:
    """Check the trials in sys.argv[1] against the devices; runs in its own process, as it takes the devices.

    Prints the platform and the experiments as JSON; a mistake is one line on stderr and exit code 2.
    """
    try:
        import jax

        from flaxmill.sharding.mesh import make_mesh

        experiments = [trial(**settings) for settings in json.loads(sys.argv[1])]
        for experiment in experiments:
            check_mesh(experiment, make_mesh(experiment.mesh))
        device = jax.devices()[0]
    except (ValueError, RuntimeError, AssertionError) as error:
        refusal = explain(error)
        if refusal is None and not isinstance(error, ValueError):
            raise
        print(" ".join((refusal.text if refusal else str(error)).split()), file=sys.stderr)
        sys.exit(2)
    described = {"platform": device.platform, "device": device.device_kind}
    print(json.dumps(described | {"experiments": [to_dict(experiment) for experiment in experiments]}))


def _axes(config: MeshConfig) -> dict[str, int]:
    """Sizes with the free axis filled in."""
    from flaxmill.sharding.mesh import make_mesh

    return dict(make_mesh(config).shape)

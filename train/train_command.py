"""`flaxmill train`: trains a config, or continues its run."""

from dataclasses import dataclass
from typing import Annotated

from flaxmill.train.experiment import Experiment
from flaxmill.train.named_configs import DEFAULT_CONFIG, load_config
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.preemption import StopSignal
from flaxmill.train.run_directory import describe, differences

PROGRAM = "flaxmill train"
DESCRIPTION = f"""Trains CONFIG: a name that `flaxmill configs` lists ({DEFAULT_CONFIG} if none is given), or a .py file
that defines `config`. It comes first; below are its fields and their values. With a --run-dir that holds
checkpoints the run continues from the last."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What `flaxmill train` takes."""

    extend: bool = False
    """Let the run in --run-dir continue to more steps than it was started with."""
    config: Annotated[Experiment, INLINE]


def run(arguments: list[str]) -> int:
    """Train; returns the exit code."""
    named, rest = take_config(arguments)
    parsed = override(
        TrainArguments(config=named), rest, program=PROGRAM, description=DESCRIPTION
    )
    # Signals are taken before anything starts a thread, which would inherit their handling.
    with StopSignal() as stop:
        from flaxmill.train.loop import train

        changed = differences(named, parsed.config)
        print(f"{named.name}: {describe(changed) if changed else 'as configured'}", flush=True)
        result = train(parsed.config, extend=parsed.extend, stop=stop)
    return 75 if result.preempted else 0


def take_config(arguments: list[str]) -> tuple[Experiment, list[str]]:
    """The config that the first argument names, if it is no flag, and the other arguments."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0]), arguments[1:]
    return load_config(DEFAULT_CONFIG), arguments

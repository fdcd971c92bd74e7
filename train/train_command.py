"""`flaxmill train`: trains a config, or continues its run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from flaxmill.train.experiment import Experiment
from flaxmill.train.named_configs import CONFIG_USAGE, DEFAULT_CONFIG, take_config
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.run_directory import describe, differences

if TYPE_CHECKING:
    from flaxmill.train.preemption import StopSignal

DESCRIPTION = f"""Trains CONFIG, a name that `flaxmill configs` lists, or FILE.py, which defines `config`;
{DEFAULT_CONFIG} if neither is given. It comes first; then its fields, shown below with the values that it
gives them. With a --run-dir that holds checkpoints the run continues from the last."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What `flaxmill train` takes."""

    extend: bool = False
    """Let the run in --run-dir continue to more steps than it was started with."""
    config: Annotated[Experiment, INLINE]


def run(arguments: list[str], stop: "StopSignal") -> bool:
    """Train; returns whether a signal ended it before its last step."""
    named, rest = take_config(arguments)
    parsed = override(
        TrainArguments(config=named),
        rest,
        program="flaxmill train",
        usage=CONFIG_USAGE,
        description=DESCRIPTION,
    )
    from flaxmill.train.loop import train

    changed = differences(named, parsed.config)
    heading = f"{named.name}: {describe(changed) if changed else 'as configured'}"
    return train(parsed.config, extend=parsed.extend, stop=stop, heading=heading).preempted

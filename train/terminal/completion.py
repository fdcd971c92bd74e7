"""`flaxmill completion SHELL`: a script that completes commands and their flags, as tyro writes it."""

import contextlib
import dataclasses
import functools
import importlib
import operator
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from flaxmill.data.messages import did_you_mean
from flaxmill.train.named_configs import DEFAULT_CONFIG, load_config

SHELLS = ("bash", "zsh", "fish")
USAGE = f"""usage: flaxmill completion {"|".join(SHELLS)}

Prints a script that completes the commands and flags of flaxmill in this shell. For bash:

  flaxmill completion bash > ~/.local/share/bash-completion/completions/flaxmill"""

Actions = Mapping[str, str]
ARGUMENTS: dict[str, str | Actions] = {
    "train": "commands.train_command:TrainArguments",
    "data": {
        "prepare": "commands.data_command:PrepareArguments",
        "finish": "commands.data_command:FinishArguments",
        "show": "commands.data_command:ShowArguments",
        "card": "commands.data_command:CardArguments",
        "check": "commands.data_command:CheckArguments",
    },
    "tokenizer": {
        "train": "commands.tokenizer_training:TrainArguments",
        "show": "commands.tokenizer_command:ShowArguments",
        "compare": "commands.tokenizer_command:CompareArguments",
    },
    "eval": "commands.eval_command:EvalArguments",
    "embed": "commands.embed_command:EmbedArguments",
    "score": "commands.score_command:ScoreArguments",
    "generate": "commands.generate_command:GenerateArguments",
    "chat": "commands.chat_command:ChatArguments",
    "import": "commands.import_command:ImportArguments",
    "export": "commands.export_command:ExportArguments",
    "parity": "commands.parity_command:ParityArguments",
    "runs": "commands.runs_command:RunsArguments",
    "report": "commands.report_command:ReportArguments",
    "checkpoints": "commands.checkpoints_command:CheckpointsArguments",
    "verify-resume": "verify_resume.trial:VerifyArguments",
    "plan": "commands.plan_command:PlanArguments",
    "lm-eval": "commands.lm_eval_command:LmEvalArguments",
    "doctor": "commands.doctor_command:DoctorArguments",
    "configs": "commands.configs_command:ConfigsArguments",
}
"""What each command takes, or each of its actions, as "module of flaxmill.train:dataclass"."""


def run(arguments: list[str]) -> None:
    """Print the script of the shell that is named; raises ValueError for another."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE)
    elif len(arguments) == 1 and arguments[0] in SHELLS:
        print(script(arguments[0]), end="")
    else:
        given = " ".join(arguments)
        question = f"; {did_you_mean(given, SHELLS)}" if given else ""
        raise ValueError(
            f"flaxmill completion takes the name of a shell, not {given!r}{question}; use one of "
            f"{', '.join(SHELLS)}"
        )


def script(shell: str) -> str:
    """The script. It holds all flags: completing does not start flaxmill."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "script"
        with contextlib.suppress(SystemExit):  # which ends tyro once it has written the script
            tyro.cli(
                _alternatives(ARGUMENTS),
                prog="flaxmill",
                args=["--tyro-write-completion", shell, str(written)],
                config=(tyro.conf.UseAppendAction, tyro.conf.OmitSubcommandPrefixes),
            )
        return written.read_text(encoding="utf-8")


def _alternatives(arguments: Mapping[str, str | Actions]) -> Any:
    """A union in which each command is an alternative of its name."""
    members = []
    for name, place in arguments.items():
        if isinstance(place, str):
            default = _default(place)
            named = tyro.conf.subcommand(name, default=default)
            members.append(Annotated[type(default), named])
        else:
            members.append(Annotated[_alternatives(place), tyro.conf.subcommand(name)])
    return functools.reduce(operator.or_, members)


def _default(place: str) -> Any:
    module, _, name = place.partition(":")
    cls = getattr(importlib.import_module(f"flaxmill.train.{module}"), name)
    # Where an experiment must be given, the default one has all its flags.
    needed = [field.name for field in dataclasses.fields(cls) if _is_needed(field)]
    return cls(**dict.fromkeys(needed, load_config(DEFAULT_CONFIG)))


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

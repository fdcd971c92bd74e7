"""The program `flaxmill`: finds the command, and turns its end into an exit code and at most one line."""

import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from flaxmill.sharding.processes.allocator import keep_freed_memory
from flaxmill.sharding.processes.processor import spare_threads
from flaxmill.sharding.processes.stop_signal import EXIT_BY_SIGNAL, StopSignal
from flaxmill.train.failures import EXIT_DONE, EXIT_FAILURE, EXIT_MISTAKE, RunError
from flaxmill.train.jax_environment import choose_platform, computes_on_cpu, explain
from flaxmill.train.metrics.callbacks import CallbackError
from flaxmill.train.terminal.streams import plain_logging, take_streams, write_failure

_MAX_CHARACTERS = 2000
# Imports and tracing make a million objects that stay. Looked through as often as Python's defaults have it,
# they take a sixth of a short command's time; every 50,000 objects, a twentieth.
_COLLECTIONS = (500_000, 20, 20)

COMMANDS = {
    "train": "train [CONFIG | FILE.py] [--field value ...]   train, or continue the run in --run-dir",
    "data": "data prepare|show|card|check [CONFIG | DIR]    prepare, show, describe or check data",
    "tokenizer": "tokenizer train|show|compare ...               train, show or compare tokenizers",
    "eval": "eval RUN [--data FILE] [--json]                measure a run on held-out text",
    "lm-eval": "lm-eval MODEL --tasks NAME ...                 measure on tasks of the lm-evaluation-harness",
    "generate": "generate SOURCE PROMPT [--field value ...]     text from a run or a Hugging Face directory",
    "embed": "embed MODEL --data FILE --output E.npy         a vector for each text",
    "score": "score MODEL --data FILE [--json]               log-probabilities of texts and their tokens",
    "chat": "chat MODEL [--system TEXT]                     talk with a run or a Hugging Face directory",
    "import": "import HF_DIR RUN [--field value ...]          make a run from a Hugging Face model",
    "export": "export RUN HF_DIR [--step N]                   write a run's weights for Hugging Face",
    "parity": "parity DIRECTORY [--json]                      compare a model with PyTorch",
    "runs": "runs [DIR] [--json]                            list runs: how far, how good, running or not",
    "report": "report RUN [RUN ...] [--output FILE.html]      runs as one HTML page",
    "checkpoints": "checkpoints RUN [--quick] [--json]             list checkpoints: whole or damaged",
    "verify-resume": "verify-resume [CONFIG | FILE.py] [--json]      prove that resume is exact",
    "plan": "plan [CONFIG | FILE.py] --topology T [--json]      compile for hardware that is not here",
    "doctor": "doctor [--json]                                examine this machine and its packages",
    "configs": "configs                                        list the experiments",
    "completion": "completion bash|zsh|fish                       a script that completes flags in a shell",
}
_OTHER_COMMANDS = {
    **dict.fromkeys(("version", "-V", "-v"), "`flaxmill --version`"),
    **dict.fromkeys(("list", "ls"), "`flaxmill configs` for experiments, `flaxmill runs` for runs"),
    **dict.fromkeys(("finetune", "fine-tune", "pretrain", "fit", "run", "resume"), "`flaxmill train`"),
    **dict.fromkeys(("evaluate", "test", "validate"), "`flaxmill eval`"),
    **dict.fromkeys(("sample", "infer", "inference"), "`flaxmill generate`"),
    **dict.fromkeys(("encode", "embeddings"), "`flaxmill embed`"),
    **dict.fromkeys(("perplexity", "ppl"), "`flaxmill score`"),
    **dict.fromkeys(("talk", "converse"), "`flaxmill chat`"),
    **dict.fromkeys(("preprocess", "prepare", "tokenize"), "`flaxmill data prepare`"),
    **dict.fromkeys(("check", "diagnose", "env", "info", "devices"), "`flaxmill doctor`"),
    **dict.fromkeys(("convert", "save"), "`flaxmill export`"),
}
"""What a command may be called elsewhere."""
_COMPUTE = {"train", "eval", "embed", "score", "verify-resume"}
"""Commands that take many steps."""

USAGE = """usage: flaxmill COMMAND ...

Trains BERT, GPT and their hybrid in JAX and Flax.

commands:
  {commands}

`flaxmill COMMAND --help` explains a command. `flaxmill --version` prints the version.
Exit codes: 0 done, 2 a mistake in what was given, 75 preempted and saved, 128 + a signal's number: ended by
it with nothing saved since, 1 anything else."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; without `argv` this is the program, and ends the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        gc.set_threshold(*_COLLECTIONS)
    take_streams()
    with plain_logging():
        code = _run_to_code(arguments, is_program=argv is None)
    if failure := write_failure():
        print(f"flaxmill: error: stdout could not be written ({failure.strerror})", file=sys.stderr)
        code = code or EXIT_FAILURE
    _exit(code, is_program=argv is None)


class Outcome(NamedTuple):
    """How an error ends a command: the exit code, and the line that says why."""

    code: int
    line: str


def outcome_of(error: BaseException) -> Outcome | None:
    """How this error ends the command; None: it is a defect, which is shown with its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return Outcome(EXIT_BY_SIGNAL + signal.SIGINT, "flaxmill: interrupted")
    if isinstance(error, RunError | OSError):  # a full disk or a lost mount is not a defect to trace
        return Outcome(EXIT_FAILURE, _one_line(error))
    if isinstance(error, ValueError | RuntimeError | AssertionError) and (refusal := explain(error)):
        code = EXIT_MISTAKE if refusal.is_mistake else EXIT_FAILURE
        return Outcome(code, f"flaxmill: error: {refusal.text}")
    if isinstance(error, ValueError) and _is_mistake(error):
        return Outcome(EXIT_MISTAKE, _one_line(error))
    return None


def _run_to_code(arguments: list[str], is_program: bool) -> int:
    try:
        return _run_command(arguments, is_program)
    except (KeyboardInterrupt, Exception) as error:
        outcome = outcome_of(error)
        if outcome is not None:
            print(outcome.line, file=sys.stderr)
            return outcome.code
        if not isinstance(error, ValueError):
            raise
        traceback.print_exception(error)
        return EXIT_FAILURE


def _one_line(error: Exception) -> str:
    """What the error says, whatever it quotes, without terminal escapes and never as long as a file."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if len(text) > _MAX_CHARACTERS:
        half = _MAX_CHARACTERS // 2  # the beginning says what is wrong, the end what to do
        text = f"{text[:half]} ... {text[-half:]}"
    return f"flaxmill: error: {text}"


def _exit(code: int, is_program: bool) -> NoReturn:
    """Exit; a process of a job that did not end together skips JAX's wait for the others, and a program that
    compiles for a run that has ended does not finish that."""
    jax, ahead = sys.modules.get("jax"), sys.modules.get("flaxmill.train.compilation.ahead")
    in_job = jax is not None and jax.distributed.is_initialized()
    if in_job or (is_program and ahead is not None and ahead.is_compiling()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run_command(arguments: list[str], is_program: bool) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("--help", "-h", "help"):
        print(USAGE.format(commands="\n  ".join(COMMANDS.values())))
        return EXIT_DONE
    if command == "--version":
        from importlib.metadata import version

        print(f"flaxmill {version('flaxmill')}")
        return EXIT_DONE
    if command not in COMMANDS:
        raise ValueError(_unknown_command(command))
    if command == "completion":  # it reads what all other commands take
        from flaxmill.train.terminal.completion import run

        run(rest)
        return EXIT_DONE
    choose_platform()
    spare_threads(os.environ)
    if command in _COMPUTE and computes_on_cpu():
        keep_freed_memory(os.environ)
    if command == "train":
        return _train(rest, is_program)
    # The commands import JAX and more; help and mistakes need not wait for that.
    module = importlib.import_module(f"flaxmill.train.commands.{command.replace('-', '_')}_command")
    return module.run(rest) or EXIT_DONE


def _train(arguments: list[str], is_program: bool) -> int:
    # This comes before the imports below, which take a second: a signal then is as good as a later one.
    with StopSignal(until_exit=is_program) as stop:
        from flaxmill.train.commands import train_command

        return train_command.run(arguments, stop)


def _unknown_command(command: str) -> str:
    from flaxmill.data.messages import did_you_mean

    if command in _OTHER_COMMANDS:
        return f"unknown command {command!r}; use {_OTHER_COMMANDS[command]}"
    problem = (
        f"unknown command {command!r}; {did_you_mean(command, list(COMMANDS))}" if command else "no command;"
    )
    return f"{problem} use one of {', '.join(COMMANDS)} (`flaxmill --help` explains)"


def _is_mistake(error: ValueError) -> bool:
    """Whether flaxmill itself raised the error, on purpose: libraries raise ValueErrors at our defects."""
    if type(error) not in (ValueError, CallbackError):
        return False  # subclasses such as UnicodeDecodeError come from libraries
    frames = list(traceback.walk_tb(error.__traceback__))
    # JAX removes its own frames from a traceback, and leaves a note that it did.
    raised_by_jax = bool(getattr(error, "__notes__", None))
    return not raised_by_jax and frames[-1][0].f_globals.get("__name__", "").startswith("flaxmill.")

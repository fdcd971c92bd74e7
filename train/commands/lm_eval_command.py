"""`flaxmill lm-eval`: EleutherAI's lm-evaluation-harness on a run or a Hugging Face directory."""

import importlib.util
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.run.model_sources import check_model_source

USAGE = "flaxmill lm-eval MODEL ARGS..."
DEFAULT_BATCH_SIZE = 16
DESCRIPTION = (
    "Measures the causal model of MODEL, a run or a Hugging Face directory, on tasks of the lm-evaluation-"
    f"harness. All flags are those of `lm-eval run`; --batch_size is {DEFAULT_BATCH_SIZE} unless given, "
    "and --model and --model_args are MODEL's."
)
HELP = f"""usage: {USAGE}

{textwrap.fill(DESCRIPTION, 100, break_on_hyphens=False)}

  --tasks NAME ...       what to measure; `lm-eval ls tasks` lists them
  --include_path DIR     where your own tasks are
  --limit N              that many examples of each task
  --num_fewshot N        examples before each question
  --batch_size N         rows computed at a time
  --output_path DIR      where the results go
`lm-eval run --help` lists all."""
_OWN = {
    "--model": "MODEL is the model",
    "-M": "MODEL is the model",
    "--model_args": "MODEL is the model",
    "-a": "MODEL is the model",
    "--apply_chat_template": "chat templates are not applied here",
    "--fewshot_as_multiturn": "chat templates are not applied here",
    "--device": "JAX_PLATFORMS chooses where to compute",
}
"""Flags of the harness that would mean something else, and why."""


@dataclass(frozen=True, kw_only=True)
class LmEvalArguments:
    """No flags of its own: all are passed on."""


def run(arguments: list[str]) -> None:
    """Load the model, and hand it to the harness's own command line.

    Raises:
      ValueError: the user's mistake, or what the harness says of one.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        if not arguments:
            raise ValueError(f"MODEL comes first, none given: {USAGE}")
        print(HELP)
        return
    if arguments[0].startswith("-"):
        raise ValueError(f"MODEL comes before {arguments[0]}: {USAGE}")
    source, flags = local_path(arguments[0], "MODEL"), arguments[1:]
    _refuse_own(flags)
    batch_size = _batch_size(flags)
    check_model_source(source)
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed; pip install 'flaxmill[lm-eval]'")
    _evaluate(source, flags, batch_size)


def _evaluate(source: Path, flags: Sequence[str], batch_size: int) -> None:
    from lm_eval._cli import HarnessCLI  # type: ignore[import-not-found]

    from flaxmill.train.harness.language_model import NAME, check_answers, make_language_model, register
    from flaxmill.train.inference.text_model import load_text_model

    model = load_text_model(source)
    check_answers(model, str(source))
    register(make_language_model(model, batch_size))
    # The harness reads sys.argv itself. Of flags that are given twice it takes the last.
    own = ["--model", NAME, "--batch_size", str(batch_size), "--model_args", f"pretrained={source}"]
    with _harness_arguments(["run", *flags, *own]), _mistakes_in_one_line():
        command = HarnessCLI()
        command.execute(command.parse_args())


def _refuse_own(flags: Sequence[str]) -> None:
    for flag in flags:
        if (why := _OWN.get(flag.partition("=")[0])) is not None:
            raise ValueError(f"{flag} is not passed on: {why}; leave it out")


def _batch_size(flags: Sequence[str]) -> int:
    """What --batch_size says; the harness's `auto` is the default."""
    given = DEFAULT_BATCH_SIZE
    for number, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name not in ("--batch_size", "-b"):
            continue
        text = value if equals else (flags[number + 1] if number + 1 < len(flags) else "")
        if text.partition(":")[0] == "auto":
            continue
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"--batch_size={text} must be a number from 1, or auto")
        given = int(text)
    return given


@contextmanager
def _harness_arguments(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["lm-eval", *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _mistakes_in_one_line() -> Iterator[None]:
    """The harness's own ValueErrors are about tasks and flags: they are the user's."""
    try:
        yield
    except ValueError as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        if not frames[-1][0].f_globals.get("__name__", "").startswith("lm_eval."):
            raise
        raise ValueError(f"lm-eval: {' '.join(str(error).split())}") from None

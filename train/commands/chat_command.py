"""`flaxmill chat`: a conversation with a trained model in the terminal, or by lines of a pipe."""

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flaxmill.model.generation.config import GenerationConfig, WeightType
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.named_configs import run_definitions
from flaxmill.train.overrides import INLINE, override, take_paths
from flaxmill.train.run.model_sources import check_model_source

if TYPE_CHECKING:
    from flaxmill.train.inference.conversation import Conversation

USAGE = "MODEL"
DESCRIPTION = """Talks with MODEL: a run (its best checkpoint, or else its newest) or a Hugging Face
directory, whose tokenizer has a chat template. Each line is a message. /reset begins a new conversation;
/exit or Ctrl-D ends it; Ctrl-C stops an answer. Lines may come from a pipe: stdout holds answers alone."""

# The name in other programs' chats, and the name that `flaxmill generate` has for it.
_SAME = {"--max-tokens": "--max-new-tokens"}


@dataclass(frozen=True, kw_only=True)
class ChatArguments:
    """What `flaxmill chat` takes."""

    system: str = ""
    """The system's message, which begins the conversation and is never dropped; empty: none."""
    config: str | None = None
    """The file that defines the objective of the run, if that is one of your own."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices to compute on."""
    weights: WeightType | None = None
    """How the weights are kept, as for `flaxmill generate`."""
    decoding: Annotated[GenerationConfig, INLINE] = field(
        default_factory=lambda: GenerationConfig(max_new_tokens=512)
    )

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_beams"):
            if (value := getattr(self.decoding, name)) != 1:
                raise ValueError(
                    f"{name}={value} gives several texts, and a message has one answer; leave it 1"
                )


def run(arguments: list[str]) -> None:
    """Read messages until they end, and answer each."""
    (source,), flags = take_paths(arguments, USAGE, program="flaxmill chat")
    flags = [_renamed(flag) for flag in flags]
    parsed = override(ChatArguments(), flags, program="flaxmill chat", usage=USAGE, description=DESCRIPTION)
    check_model_source(source)
    run_definitions(parsed.config)
    talk(_open(source, parsed))


def _renamed(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return _SAME.get(name, name) + equals + value


def _open(source: Path, arguments: ChatArguments) -> "Conversation":
    from flaxmill.train.inference.conversation import Conversation
    from flaxmill.train.inference.text_model import load_text_model

    model = load_text_model(source, arguments.mesh)
    return Conversation(model, arguments.decoding, arguments.system, arguments.weights)


def talk(conversation: "Conversation") -> None:
    """Answer the lines of stdin on stdout.

    Raises ValueError for a message that cannot be answered, unless someone at a terminal can correct it.
    """
    if sys.stdin is None:  # closed by the process that started this one
        return
    is_terminal = sys.stdin.isatty()
    for line in _lines(is_terminal):
        if line == "/exit":
            return
        if line == "/reset":
            conversation.reset()
        elif line:
            try:
                _answer(conversation, line)
            except ValueError as error:
                if not is_terminal:
                    raise
                print(f"flaxmill: {error}", file=sys.stderr)


def _lines(is_terminal: bool) -> Iterator[str]:
    """The messages, without blanks around them; a terminal is asked for each."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(
            encoding="utf-8", errors="surrogateescape"
        )  # a bad byte is named when it is read
    while True:
        if is_terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            if is_terminal:
                print(file=sys.stderr)
            return
        yield line.strip()


def _answer(conversation: "Conversation", message: str) -> None:
    before = conversation.num_dropped
    with _interrupts() as interrupts, contextlib.closing(conversation.answer(message)) as answer:
        for news in answer:
            sys.stdout.write(news)
            sys.stdout.flush()
            if interrupts:
                break
    print(flush=True)
    if num_dropped := conversation.num_dropped - before:
        print(
            f"flaxmill: the context is full: the oldest {num_dropped} messages are no longer read",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to: an answer ends at its next piece; a second Ctrl-C ends the command."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)

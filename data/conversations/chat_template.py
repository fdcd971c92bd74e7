"""Chat templates in Jinja, as tokenizers have them, and where the assistant's turns are in their text.

A template may mark what the assistant writes, {% generation %} ... {% endgeneration %}, as transformers reads
it. In the text of any other template the turns are found by rendering it again with other contents.
"""

import datetime
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from flaxmill.data.conversations.messages import Message, Rendered

Spans = list[tuple[int, int]]

# Characters that no message holds: they stand for the ends of a marked turn, and for a turn's content.
_BEGIN, _END, _CONTENT = "\ufdd0", "\ufdd1", "\ufdd2"
# A template that asks for today's date gets this one, so that equal conversations give equal rows on any day.
_TODAY = datetime.datetime(2024, 7, 26)


class ChatTemplate:
    """Renders conversations with a template. The constructor raises ValueError where it is no template."""

    def __init__(self, source: str, tokens: Mapping[str, str], specials: Collection[str]):
        """
        Args:
          tokens: special tokens by the names that templates use, such as bos_token.
          specials: the spellings of all special tokens; one of them ends a turn.
        """
        self._render, self._is_marked = _compile(source)
        self._tokens = tokens
        self.specials = specials
        longest_first = sorted(specials, key=len, reverse=True)
        self._turn_end = re.compile(
            rf"\s*(?:{'|'.join(map(re.escape, longest_first))})" if specials else "(?!)"
        )

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text. Raises ValueError where the template refuses the messages, or fails at them."""
        text, spans = _take_marks(self._run(messages, opens_answer=False))
        return Rendered(text, tuple(spans if self._is_marked else self._find(messages, text)))

    def open_answer(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant's next turn begins. Raises ValueError as `render` does."""
        return _take_marks(self._run(messages, opens_answer=True))[0]

    def _run(self, messages: Sequence[Message], opens_answer: bool) -> str:
        try:
            return self._render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=opens_answer,
                **self._tokens,
            )
        except Exception as error:  # a template is a program, and may raise anything
            raise ValueError(f"the chat template refuses it ({_reason(error)})") from None

    def _find(self, messages: Sequence[Message], text: str) -> Spans:
        """The assistant's turns in the text: from where a model is asked to write them, which may be before
        their contents, through the special token behind the contents that ends the turn."""
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        frame = self._run(_hide(messages, turns), opens_answer=False).split(_CONTENT)
        contents = [messages[number]["content"] for number in turns]
        spans = _place(contents, frame, text) or _place([c.strip() for c in contents], frame, text)
        if spans is None:  # the template changes contents, or writes them according to what they are
            spans = [
                _differing(text, self._run(_hide(messages, [turn]), opens_answer=False)) for turn in turns
            ]
        found: Spans = []
        for turn, (start, end) in zip(turns, spans, strict=True):
            start = self._begin(messages[:turn], text, found[-1][1] if found else 0, start)
            if start < (end := self._end_of_turn(text, end)):
                found.append((start, end))
        return found

    def _begin(self, before: Sequence[Message], text: str, earliest: int, start: int) -> int:
        """Where a model that was given the messages `before` begins its turn with the content at `start`."""
        if self._opening:
            opened = text.rfind(self._opening, earliest, start)
            return start if opened < 0 else opened + len(self._opening)
        # Without a prompt for the answer, as in Mistral's templates, the model writes the blank before it.
        try:
            given = self.open_answer(before)
        except ValueError:
            return start
        is_blank = text.startswith(given) and text[len(given) : start].isspace()
        return len(given) if is_blank else start

    @functools.cached_property
    def _opening(self) -> str:
        """What the template puts where the assistant's next turn begins; "" where nothing."""
        question: Sequence[Message] = [{"role": "user", "content": _CONTENT}]
        try:
            closed, opened = (self._run(question, opens_answer=opens) for opens in (False, True))
        except ValueError:
            return ""
        return opened.removeprefix(closed) if opened.startswith(closed) else ""

    def _end_of_turn(self, text: str, end: int) -> int:
        found = self._turn_end.match(text, end)
        return found.end() if found else end


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> tuple[Callable[..., str], bool]:
    """What renders the template, and whether it marks the assistant's turns."""
    try:
        import jinja2
        from jinja2 import ext, nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ValueError(
            "the tokenizer's chat template needs jinja2 to be read; pip install 'flaxmill[chat]'"
        ) from None
    marked: list[int] = []

    class Generation(ext.Extension):
        tags = {"generation"}  # noqa: RUF012  (Jinja reads it so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            marked.append(line)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            begin, end = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (_BEGIN, _END))
            return [begin, *body, end]

    # As transformers sets it up: templates are written for these settings and functions.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _TODAY.strftime}
    try:
        template = environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ValueError(f"the tokenizer's chat template is not one ({_reason(error)}); correct it") from None
    return template.render, bool(marked)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would write & and < for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: Any) -> None:
    raise ValueError(message)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _hide(messages: Sequence[Message], turns: Collection[int]) -> list[Message]:
    """The messages with another content in these turns."""
    return [
        message | {"content": _CONTENT} if number in turns else message
        for number, message in enumerate(messages)
    ]


def _take_marks(marked: str) -> tuple[str, Spans]:
    """The text without marks, and the spans that they were around."""
    text, spans, start = "", [], 0
    for part in re.split(f"([{_BEGIN}{_END}])", marked):
        if part == _BEGIN:
            start = len(text)
        elif part != _END:
            text += part
        elif start < len(text):
            spans.append((start, len(text)))
    return text, spans


def _place(contents: Sequence[str], frame: Sequence[str], text: str) -> Spans | None:
    """Where the contents are in a text that is the frame's parts with the contents between them; None: it is
    another text."""
    if len(frame) != len(contents) + 1:
        return None
    parts = [part for pair in zip(frame, contents, strict=False) for part in pair] + [frame[-1]]
    if "".join(parts) != text:
        return None
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    return list(pairwise(ends))[1::2]


def _differing(text: str, other: str) -> tuple[int, int]:
    """The span of the text that lies between what two texts begin and end with alike; empty where they are
    equal."""
    shortest = min(len(text), len(other))
    start = next((n for n in range(shortest) if text[n] != other[n]), shortest)
    rest = shortest - start
    tail = next((n for n in range(rest) if text[-1 - n] != other[-1 - n]), rest)
    return start, len(text) - tail

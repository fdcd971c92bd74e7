"""Texts that a model writes after others, as the harness asks for them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaxmill.model.generation.config import GenerationConfig
from flaxmill.train.harness.continuations import longest_row
from flaxmill.train.inference.text_generation import write_texts
from flaxmill.train.inference.text_model import TextModel

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the number of new tokens; the first that is given counts."""
DEFAULT_NEW_TOKENS = 256  # the harness's own
_SAMPLING = ("top_k", "top_p", "min_p")
_OTHERS = ("repetition_penalty", "num_beams", "length_penalty")


class Request(NamedTuple):
    """A text to continue, and how: the harness's `gen_kwargs`."""

    context: str
    settings: Mapping[str, Any]


class _Decoding(NamedTuple):
    options: GenerationConfig
    stop: tuple[str, ...]


def write_answers(model: TextModel, requests: Sequence[Request], batch_size: int) -> list[str]:
    """A text for each, in order, up to the first of its stop strings. Long contexts lose their beginning.

    Raises:
      ValueError: a setting that is not known here, or more new tokens than the model can read.
    """
    answers: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(json.dumps(request.settings, sort_keys=True), []).append(number)
    for numbers in groups.values():
        decoding = read_decoding(requests[numbers[0]].settings)
        cut = _with_room(model, decoding.options.max_new_tokens)
        numbers.sort(key=lambda number: len(requests[number].context), reverse=True)
        for first in range(0, len(numbers), batch_size):
            batch = numbers[first : first + batch_size]
            prompts = [requests[number].context for number in batch]
            answers |= zip(batch, write_texts(cut, prompts, *decoding).texts, strict=True)
    return [answers[number] for number in range(len(requests))]


def read_decoding(settings: Mapping[str, Any]) -> _Decoding:
    """The settings of a request in this package's words; without do_sample or a temperature it is greedy."""
    rest = dict(settings)
    until = rest.pop("until", None) or []
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    lengths = [value for name in _LENGTHS if (value := rest.pop(name, None)) is not None]
    temperature = float(rest.pop("temperature", None) or 0.0)
    samples = rest.pop("do_sample", None)
    if samples and not temperature:
        temperature = 1.0
    temperature = 0.0 if samples is False else temperature
    given = {name: rest.pop(name, None) for name in (*_SAMPLING, *_OTHERS)}
    if rest:
        name, value = next(iter(rest.items()))
        known = ", ".join(("until", "do_sample", "temperature", *_LENGTHS[:1], *given))
        raise ValueError(f"gen_kwargs {name}={value} is not known; leave it out, or use {known}")
    nothing = {"top_k": (0, -1), "top_p": (1, 1.0), "min_p": (0, 0.0)}  # how others spell "no such limit"
    kept = {
        name: value
        for name, value in given.items()
        if value is not None and value not in nothing.get(name, ()) and (temperature or name not in _SAMPLING)
    }
    max_new_tokens = int(lengths[0]) if lengths else DEFAULT_NEW_TOKENS
    options = GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature, **kept)
    return _Decoding(options, stop)


def _with_room(model: TextModel, max_new_tokens: int) -> TextModel:
    """The model, reading only so much of a text's end that the new tokens fit after it."""
    longest = longest_row(model.config)
    limit = longest - max_new_tokens
    if limit < 1:
        raise ValueError(
            f"max_gen_toks={max_new_tokens} leaves no room in the {longest} tokens that the model reads; "
            f"give less, as in --gen_kwargs max_gen_toks={longest // 2}"
        )
    return model._replace(read=lambda text: model.read(text)[-limit:])

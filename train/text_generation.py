"""Text from prompts: whole, or as it comes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.generation import Generator
from flaxmill.model.generation_config import GenerationConfig
from flaxmill.train.text_model import TextModel


class Texts(NamedTuple):
    """What was written of each prompt: the new text alone, and its tokens."""

    texts: list[str]
    tokens: list[list[int]]


def write_texts(
    model: TextModel, prompts: Sequence[str], options: GenerationConfig, stop: Sequence[str] = ()
) -> Texts:
    """Generate for every prompt, in one batch; a text ends before the first of the `stop` strings, its tokens
    with the one that completed it.

    Raises:
      ValueError: an empty prompt, one that is longer than the model, or a model that does not generate.
    """
    tokens: list[list[int]] = [[] for _ in range(len(prompts) * options.num_samples)]
    for news in stream_tokens(model, prompts, options, stop):
        for row, new in zip(tokens, news, strict=True):
            row += new
    return Texts([_cut(model.tokenizer.decode(row), stop) for row in tokens], tokens)


def stream_texts(
    model: TextModel, prompts: Sequence[str], options: GenerationConfig, stop: Sequence[str] = ()
) -> Iterator[list[str]]:
    """As `write_texts`, bit by bit: what each text has gained since the last time, to be printed at once."""
    tokens: list[list[int]] = [[] for _ in range(len(prompts) * options.num_samples)]
    told = [""] * len(tokens)
    for news in stream_tokens(model, prompts, options, stop):
        for row, new in zip(tokens, news, strict=True):
            row += new
        texts = [_cut(model.tokenizer.decode(row), stop) for row in tokens]
        # What may yet change waits: half a character, and what may be the start of a stop string.
        texts = [_settled(text, stop) for text in texts]
        yield [text[len(before) :] for text, before in zip(texts, told, strict=True)]
        told = [max(text, before, key=len) for text, before in zip(texts, told, strict=True)]
    texts = [_cut(model.tokenizer.decode(row), stop) for row in tokens]
    yield [text[len(before) :] for text, before in zip(texts, told, strict=True)]


def stream_tokens(
    model: TextModel, prompts: Sequence[str], options: GenerationConfig, stop: Sequence[str]
) -> Iterator[list[list[int]]]:
    """New tokens of each text, as they are decoded."""
    own = {name: value for name, value in model.decoding.items() if _is_default(options, name)}
    options = dataclasses.replace(options, **own)
    for prompt in prompts:
        if not prompt:
            raise ValueError("a prompt is empty; give it at least one word")
    with jax.set_mesh(model.mesh):
        generator = Generator(model.config, model.params)
        ending = _ending(model.tokenizer, stop) if stop else None
        yield from generator.stream([model.read(prompt) for prompt in prompts], options, ending)


def _is_default(options: GenerationConfig, name: str) -> bool:
    return getattr(options, name) == getattr(GenerationConfig(), name)


def _ending(tokenizer: Tokenizer, stop: Sequence[str]) -> Callable[[Sequence[int]], int | None]:
    def num_kept(tokens: Sequence[int]) -> int | None:
        if not any(text in tokenizer.decode(tokens) for text in stop):
            return None
        lengths = range(1, len(tokens) + 1)
        return next(n for n in lengths if any(text in tokenizer.decode(tokens[:n]) for text in stop))

    return num_kept


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return text[: min(places)] if places else text


def _settled(text: str, stop: Sequence[str]) -> str:
    text = text.rstrip("\ufffd")
    longest = max(map(len, stop), default=1)
    tails = [size for size in range(1, longest) if any(string.startswith(text[-size:]) for string in stop)]
    return text[: len(text) - max(tails, default=0)]

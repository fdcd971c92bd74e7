"""Generates text from prompts: whole, or bit by bit as it comes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from flaxmill.model.generation.config import GenerationConfig, WeightType
from flaxmill.model.generation.generator import Generator
from flaxmill.train.inference.text_model import TextModel, read_prompts


class Texts(NamedTuple):
    """What was written for each prompt: the new text alone, and its tokens."""

    texts: list[str]
    tokens: list[list[int]]


def write_texts(
    model: TextModel,
    prompts: Sequence[str],
    options: GenerationConfig,
    stop: Sequence[str] = (),
    weights: WeightType | None = None,
    *,
    frees: bool = False,
) -> Texts:
    """Generate for every prompt, in one batch. A text ends before the first of the `stop` strings; its tokens
    end with the token that completed that string.

    Args:
      weights, frees: as in Generator; with `frees` the model is used up.

    Raises:
      ValueError: a prompt is empty or longer than the model, or the model does not generate.
    """
    texts = _open_texts(model, prompts, options)
    for _ in _extend(texts, model, make_generator(model, weights, frees=frees), options, stop):
        pass
    return Texts([_cut(text.written(), stop) for text in texts], [text.tokens for text in texts])


def stream_texts(
    model: TextModel,
    prompts: Sequence[str],
    options: GenerationConfig,
    stop: Sequence[str] = (),
    weights: WeightType | None = None,
    *,
    frees: bool = False,
) -> Iterator[list[str]]:
    """Like `write_texts`, bit by bit: yields what each text has gained since the last time, to be printed."""
    texts = _open_texts(model, prompts, options)
    yield from _stream(texts, model, make_generator(model, weights, frees=frees), options, stop)


def make_generator(
    model: TextModel, weights: WeightType | None = None, *, frees: bool = False, length_multiple: int = 16
) -> Generator:
    """What generates with the model, and may be used many times; arguments as of Generator."""
    with jax.set_mesh(model.mesh):
        return Generator(model.config, model.params, weights, frees=frees, length_multiple=length_multiple)


def stream_text(
    model: TextModel, generator: Generator, prompt: list[int], options: GenerationConfig
) -> Iterator[str]:
    """Like `stream_texts`, for the ids of one prompt and a generator of the model."""
    return (news[0] for news in _stream([_Text(model, prompt)], model, generator, options, ()))


def _stream(
    texts: list["_Text"],
    model: TextModel,
    generator: Generator,
    options: GenerationConfig,
    stop: Sequence[str],
) -> Iterator[list[str]]:
    told = [""] * len(texts)
    for _ in _extend(texts, model, generator, options, stop):
        # Hold back what may still change: half a character, or a possible start of a stop string.
        written = [_settled(_cut(text.written(), stop), stop) for text in texts]
        yield [text[len(before) :] for text, before in zip(written, told, strict=True)]
        told = [max(text, before, key=len) for text, before in zip(written, told, strict=True)]
    written = [_cut(text.written(), stop) for text in texts]
    yield [text[len(before) :] for text, before in zip(written, told, strict=True)]


class _Text:
    """One text: the ids of its prompt, and what is written after it so far."""

    def __init__(self, model: TextModel, prompt: list[int]) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self._tokenizer = model.tokenizer
        # A text that continues its prompt is decoded with it: decoders treat a text's first blank specially.
        self._before = prompt if model.continues else []
        # Half a character at the prompt's end may become whole with the next token.
        self._num_before = len(model.tokenizer.decode(self._before).rstrip("\ufffd"))

    def written(self, num_tokens: int | None = None) -> str:
        """What the first `num_tokens` new tokens (None: all of them) add to the prompt."""
        whole = self._tokenizer.decode([*self._before, *self.tokens[:num_tokens]])
        return whole[self._num_before :]


def _open_texts(model: TextModel, prompts: Sequence[str], options: GenerationConfig) -> list[_Text]:
    if "" in prompts:
        raise ValueError("a prompt is empty; give it at least one word")
    return [_Text(model, ids) for ids in read_prompts(model, prompts) for _ in range(options.num_samples)]


def _extend(
    texts: list[_Text],
    model: TextModel,
    generator: Generator,
    options: GenerationConfig,
    stop: Sequence[str],
) -> Iterator[None]:
    """Add tokens to the texts as they are decoded, and yield after each addition."""
    own = {name: value for name, value in model.decoding.items() if _is_default(options, name)}
    options = dataclasses.replace(options, **own)
    firsts = texts[:: options.num_samples]
    endings = [_ending(model, text.prompt, stop) for text in firsts] if stop else None
    with jax.set_mesh(model.mesh):
        for news in generator.stream([text.prompt for text in firsts], options, endings):
            for text, new in zip(texts, news, strict=True):
                text.tokens += new
            yield


def _is_default(options: GenerationConfig, name: str) -> bool:
    return getattr(options, name) == getattr(GenerationConfig(), name)


def _ending(
    model: TextModel, prompt: list[int], stop: Sequence[str]
) -> Callable[[Sequence[int]], int | None]:
    """A function that ends a text after this prompt once it holds a stop string."""
    text = _Text(model, prompt)

    def num_kept(tokens: Sequence[int]) -> int | None:
        text.tokens = list(tokens)
        if not any(string in text.written() for string in stop):
            return None
        lengths = range(1, len(tokens) + 1)
        return next(n for n in lengths if any(string in text.written(n) for string in stop))

    return num_kept


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return text[: min(places)] if places else text


def _settled(text: str, stop: Sequence[str]) -> str:
    text = text.rstrip("\ufffd")
    longest = max(map(len, stop), default=1)
    tails = [size for size in range(1, longest) if any(string.startswith(text[-size:]) for string in stop)]
    return text[: len(text) - max(tails, default=0)]

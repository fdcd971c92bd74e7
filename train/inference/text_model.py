"""A run or a Hugging Face directory with its tokenizer: a model that reads and writes text."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from flaxmill.data.config import Framing
from flaxmill.data.conversations.rendering import make_question_reader
from flaxmill.data.examples.framing import make_framer, make_prompt_reader, make_prompter
from flaxmill.data.special_tokens import decoder_start
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts, half_character
from flaxmill.model.config import ModelConfig
from flaxmill.model.params import Params
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.inference.loaded_model import LoadedModel, load_model
from flaxmill.train.run.decoding_settings import read_decoding, read_generation_settings
from flaxmill.train.run.importing import HUGGINGFACE
from flaxmill.train.run.token_ids import with_turn_end


class TextModel(NamedTuple):
    """A model that reads and writes text."""

    config: ModelConfig
    params: Params
    mesh: Mesh
    tokenizer: Tokenizer
    read: Callable[[str], list[int]]
    """Gives the ids of a prompt, with what came before and after prompts in training."""
    continues: bool
    """Whether the model continues a prompt in the same text, instead of answering it with another."""
    decoding: dict[str, Any]
    """Fields of GenerationConfig that the model itself decides."""


def load_text_model(source: Path, mesh_config: MeshConfig | None = None, *, markup: bool = True) -> TextModel:
    """The weights of a run, its best checkpoint or else its newest, or those of a Hugging Face directory.

    Args:
      mesh_config: devices to compute on; None: one.
      markup: read special tokens that a prompt spells as these tokens, unless a run learned from sources
        where they were text.

    Raises:
      ValueError: `source` is neither, has no tokenizer, or one that does not fit the model.
    """
    return as_text_model(load_model(source, mesh_config), markup=markup)


def as_text_model(loaded: LoadedModel, *, markup: bool = True) -> TextModel:
    """The model as one that reads and writes text; see `load_text_model`."""
    config, tokenizer, experiment = loaded.config, loaded.tokenizer, loaded.experiment
    folder = loaded.source if experiment is None else loaded.source / HUGGINGFACE
    settings = read_generation_settings(folder)
    framing, separator, converses = "template", None, False
    if experiment is not None:
        framing = experiment.data.framing
        examples = experiment.definition.data.examples
        separator = experiment.data.separator if examples is not None and examples.writes_text else None
        converses = experiment.definition.data.reads_conversations
        # Sources are read as in training. Pretraining guards its texts, but a prompt is not one of them.
        markup = markup and (separator is None or experiment.data.reads_markup_in_examples)
    config = with_decoder_start(config, tokenizer, settings.get("decoder_start_token_id"))
    continues = config.encoder_layers is None and separator is None and not converses
    decoding = read_decoding(settings, config, tokenizer, is_run=experiment is not None)
    if converses:
        read = make_question_reader(tokenizer)
        decoding["end_ids"] = with_turn_end(decoding["end_ids"], tokenizer)
    else:
        read = make_reader(config, tokenizer, framing=framing, separator=separator, markup=markup)
    return TextModel(config, loaded.params, loaded.mesh, tokenizer, read, continues, decoding)


def read_prompts(model: TextModel, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of each prompt. Raises ValueError for a prompt that is not text, or that fails to encode."""
    for number, prompt in enumerate(prompts, start=1):
        place = half_character(prompt)
        if place is not None:
            raise ValueError(f"prompt {number} is not UTF-8 at character {place}; give it as UTF-8")
    return list(encode_texts(lambda texts: [*map(model.read, texts)], prompts, lambda n: f"prompt {n}"))


def make_reader(
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    framing: Framing = "template",
    separator: str | None = None,
    markup: bool = True,
) -> Callable[[str], list[int]]:
    """A function that turns a prompt into ids, framed as in training.

    A source, or what an encoder reads, is whole, with what its template puts before and after it. What a
    decoder continues gets only what comes before it, and `separator` after it where targets were trained.
    """
    if config.encoder_layers is not None:
        framer = make_framer(tokenizer, "", closes=True, markup=markup)
    elif not config.causal and config.head != "lm":
        framer = make_framer(tokenizer, "", markup=markup)
    elif separator is not None:
        framer = make_prompter(tokenizer, separator, markup=markup)
    else:
        return make_prompt_reader(tokenizer, framing, markup=markup)
    return lambda text: framer.encode(text).ids


def with_decoder_start(config: ModelConfig, tokenizer: Tokenizer, stated: int | None = None) -> ModelConfig:
    """The config with the token that an encoder-decoder's decoder reads first: as generation_config.json
    states, else as in training."""
    if not config.encoder_layers:
        return config
    start_id = decoder_start(tokenizer, stated, config.decoder_start_id)
    return dataclasses.replace(config, decoder_start_id=start_id)

"""A run or a Hugging Face directory with its tokenizer: a model that reads and writes text."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from flaxmill.data.framing import leading_ids, make_framer, make_prompter
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.apply import Params
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface import load_huggingface
from flaxmill.model.weight_files import read_json
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.cache_directory import cache_directory
from flaxmill.train.compilation_cache import enable_compilation_cache
from flaxmill.train.init_from import is_huggingface
from flaxmill.train.restoring import load_params
from flaxmill.train.run_directory import TOKENIZER_FILE, read_config
from flaxmill.train.run_import import GENERATION_FILE, HUGGINGFACE, find_tokenizer
from flaxmill.train.sources import check_model_source

_SEPARATOR = "\n"


class TextModel(NamedTuple):
    """A model that reads and writes text."""

    config: ModelConfig
    params: Params
    mesh: Mesh
    tokenizer: Tokenizer
    read: Callable[[str], list[int]]
    """Ids of a prompt, with what stood around prompts in training."""
    decoding: dict[str, Any]
    """Fields of GenerationConfig that the model itself decides."""


def load_text_model(source: Path, mesh_config: MeshConfig | None = None) -> TextModel:
    """The newest weights of a run, or those of a Hugging Face directory.

    Args:
      mesh_config: devices to compute on; None: one.

    Raises:
      ValueError: `source` is neither, has no tokenizer, or one that does not fit the model.
    """
    check_model_source(source)
    enable_compilation_cache(cache_directory())
    mesh = make_mesh(mesh_config or MeshConfig(data=1))
    is_run = not is_huggingface(source)
    settings = _read_settings(source / HUGGINGFACE if is_run else source)
    if is_run:
        experiment = read_config(source)
        config, tokenizer = experiment.model, _load_tokenizer(source / TOKENIZER_FILE, source)
        params = load_params(source, experiment, mesh)[0]
        has_separator = experiment.objective == "seq2seq"
        separator = experiment.data.separator
    else:
        with jax.set_mesh(mesh):
            config, params = load_huggingface(source, mesh=mesh)
        tokenizer = _load_tokenizer(find_tokenizer(source), source)
        has_separator, separator = False, _SEPARATOR
    _check_vocabulary(config, tokenizer, source)
    config = with_decoder_start(config, tokenizer)
    read = make_reader(config, tokenizer, separator, has_separator)
    return TextModel(config, params, mesh, tokenizer, read, _decoding(settings, config, tokenizer, is_run))


def make_reader(
    config: ModelConfig, tokenizer: Tokenizer, separator: str, has_separator: bool
) -> Callable[[str], list[int]]:
    """How a prompt becomes ids: a source as encoders read it, or a prompt as its training framed it."""
    if config.encoder_layers is not None:
        framer = make_framer(tokenizer, separator, closes=True)
    elif has_separator:
        framer = make_prompter(tokenizer, separator)
    else:
        # As transformers does, what the tokenizer's own template puts before a text, such as LLaMA's <s>.
        before = leading_ids(tokenizer) if tokenizer.inner.num_special_tokens_to_add(False) else []
        return lambda text: [*before, *tokenizer.encode(text)]
    return lambda text: framer.encode(text).ids


def with_decoder_start(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """What the decoder of an encoder-decoder reads first, as in training (data/example_batches.py)."""
    known = (config.decoder_start_id, tokenizer.pad_id, tokenizer.closing_id, 0)
    start_id = next(id_ for id_ in known if id_ is not None)
    return dataclasses.replace(config, decoder_start_id=start_id) if config.encoder_layers else config


def _decoding(
    settings: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer, is_run: bool
) -> dict[str, Any]:
    """What generation_config.json says of tokens; how to search or to draw is for the user to say."""
    stored = settings.get("eos_token_id", config.eos_id)
    ends = set(stored if isinstance(stored, list) else [] if stored is None else [stored])
    if (is_run or not ends) and tokenizer.closing_id is not None:
        ends.add(tokenizer.closing_id)
    forbidden = [ids[0] for ids in settings.get("bad_words_ids") or [] if len(ids) == 1]
    return {
        "end_ids": tuple(sorted(ends)),
        "suppressed_ids": (*forbidden, *(settings.get("suppress_tokens") or [])),
        "forced_end": settings.get("forced_eos_token_id") is not None,
    }


def _read_settings(directory: Path) -> dict[str, Any]:
    file = directory / GENERATION_FILE
    return read_json(file) if file.is_file() else {}


def _load_tokenizer(file: Path | None, source: Path) -> Tokenizer:
    if file is None or not file.is_file():
        raise ValueError(f"{source} has no tokenizer.json or vocab.txt; put the model's tokenizer there")
    return Tokenizer.load(file)


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, source: Path) -> None:
    assert config.vocab_size is not None
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer of {source} has {tokenizer.vocab_size} ids but the model's vocabulary has "
            f"{config.vocab_size}; put the tokenizer there that the model was trained with"
        )

"""Texts as vectors by a model of any family: packed into rows, computed, pooled."""

# N texts, B rows, T tokens, G texts that may share a row, D model, E dimensions of a vector

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.fields import TextPooling
from flaxmill.model.functional import bind
from flaxmill.model.huggingface.files import read_json, read_weights
from flaxmill.model.huggingface.sentence_modules import DenseModule, SentenceModules
from flaxmill.model.params import Params
from flaxmill.model.pooling import normalize, pool_documents
from flaxmill.model.transformer import complete_batch
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.sharding.placement import num_row_shards, place_rows
from flaxmill.train.inference.encoded_texts import Encode, longest_text, make_encoder
from flaxmill.train.inference.loaded_model import LoadedModel, load_model
from flaxmill.train.inference.packed_rows import BATCH_SIZE, PackedRows, pack
from flaxmill.train.run.source import is_huggingface

_TEXTS_AT_ONCE = 2**16  # are packed together: a part of a file, however long it is

Tell = Callable[[int], None]
"""Is told how many texts are done."""


class EmbeddingOptions(NamedTuple):
    """What a user may ask of an embedding; see `make_embedder`."""

    pooling: TextPooling | None = None
    normalize: bool | None = None
    prompt: str | None = None
    batch_size: int = BATCH_SIZE


AS_STATED = EmbeddingOptions()


class Embedder(NamedTuple):
    """A model that embeds."""

    model: LoadedModel
    steps: "_Steps"
    dense: tuple[dict[str, np.ndarray], ...]
    """The weights of each Dense module."""
    encode: Encode
    limit: int | None
    """The most tokens that are read of a text."""
    prompt: str
    batch_size: int

    @property
    def num_dimensions(self) -> int:
        """E"""
        width = self.model.config.embed_dim * len(self.steps.poolings)
        return len(self.dense[-1]["linear.weight"]) if self.dense else width


class Embedded(NamedTuple):
    """float32 [N,E], and how many texts were cut."""

    vectors: np.ndarray
    num_cut: int


class _Steps(NamedTuple):
    """What a program does after the body; static."""

    poolings: tuple[TextPooling, ...]
    after: tuple[str, ...]
    """"normalize", or the activation after a Dense module."""


def load_embedder(
    modules: SentenceModules,
    options: EmbeddingOptions = AS_STATED,
    mesh_config: MeshConfig | None = None,
) -> Embedder:
    """The embedder of a directory; see `make_embedder`.

    Args:
      modules: what its files say, and where its model is.

    Raises:
      ValueError: also as `load_model` does.
    """
    if is_huggingface(modules.body):
        family = FAMILIES.get(str(read_json(modules.body / "config.json")["model_type"]))
        if family is not None and "none" not in family.architectures:
            raise _two_stacks(modules.body)
    return make_embedder(load_model(modules.body, mesh_config, head="none"), modules, options)


def make_embedder(
    model: LoadedModel, modules: SentenceModules, options: EmbeddingOptions = AS_STATED
) -> Embedder:
    """The model with what decides its vectors.

    Args:
      modules: what the files of sentence-transformers say.
      options: `pooling` and `normalize` change what the files say; without files texts are pooled as a run
        has learned to, or else by the mean over all real tokens, [CLS] and [SEP] included, and vectors are as
        long as they come. `prompt` is put before each text; None: what the files say. `batch_size`: rows of
        64 tokens that are computed together.

    Raises:
      ValueError: the model is an encoder-decoder, or the weights of a module are missing or misshapen.
    """
    if model.config.encoder_layers is not None:
        raise _two_stacks(model.source)
    if options.batch_size < 1:
        raise ValueError(f"batch_size={options.batch_size} must be at least 1")
    trained = "mean" if model.experiment is None else model.experiment.text_pooling
    poolings = (options.pooling,) if options.pooling else modules.poolings or (trained,)
    after = list(modules.after)
    if options.normalize is not None:
        after = [step for step in after if step != "normalize"] + ["normalize"] * options.normalize
    width = model.config.embed_dim * len(poolings)
    dense = []
    for step in after:
        if isinstance(step, DenseModule):
            dense.append(_read_dense(step, width))
            width = len(dense[-1]["linear.weight"])
    names = tuple(step.activation if isinstance(step, DenseModule) else step for step in after)
    limit = longest_text(model.config, model.tokenizer, modules.max_length)
    encode = make_encoder(model.tokenizer, limit, lowercase=modules.lowercase)
    prompt = modules.prompt if options.prompt is None else options.prompt
    return Embedder(model, _Steps(poolings, names), tuple(dense), encode, limit, prompt, options.batch_size)


def embed_texts(embedder: Embedder, texts: Sequence[str], tell: Tell = lambda num_texts: None) -> Embedded:
    """A vector for each text, in order; a text without any token has the vector 0.

    Raises ValueError for a text that is not a string, or that fails to encode.
    """
    vectors = np.zeros((len(texts), embedder.num_dimensions), np.float32)
    num_cut = 0
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        part = vectors[first : first + _TEXTS_AT_ONCE]
        encoded = embedder.encode([embedder.prompt + text for text in texts[first : first + len(part)]])
        num_cut += encoded.num_cut
        num_done = first
        for numbers_BG, vectors_BGE in _compute(embedder, encoded.ids):
            is_text_BG = numbers_BG >= 0
            part[numbers_BG[is_text_BG]] = vectors_BGE[is_text_BG]
            num_done += int(is_text_BG.sum())
            tell(num_done)
    return Embedded(vectors, num_cut)


def _two_stacks(source: Path) -> ValueError:
    return ValueError(
        f"{source} is an encoder-decoder, neither of whose stacks alone is the model of a text; embed with "
        "an encoder or a decoder"
    )


def _compute(embedder: Embedder, ids: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of texts [B,G] and their vectors [B,G,E]."""
    model = embedder.model
    rows = pack(
        ids,
        batch_size=embedder.batch_size,
        limit=embedder.limit,
        multiple=num_row_shards(model.mesh),
        shares=model.config.expert_capacity is None,  # else a text's experts depend on its neighbours
    )
    with jax.set_mesh(model.mesh):
        yield from _read_late((packed.numbers, _start(embedder, packed)) for packed in rows)


def _read_late(started: Iterable[tuple[np.ndarray, jax.Array]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Reads each result when the next has been started: the device never waits for the host."""
    pending: tuple[np.ndarray, jax.Array] | None = None
    for one in started:
        if pending is not None:
            yield pending[0], np.asarray(pending[1])
        pending = one
    if pending is not None:
        yield pending[0], np.asarray(pending[1])


def _start(embedder: Embedder, packed: PackedRows) -> jax.Array:
    model = embedder.model
    batch = {"tokens": packed.tokens, "documents": packed.documents}
    placed = place_rows(model.mesh, batch, len(packed.tokens))
    num_slots = packed.numbers.shape[1]
    return _vectors(model.config, embedder.steps, num_slots, model.params, embedder.dense, placed)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(
    config: ModelConfig,
    steps: _Steps,
    num_slots: int,
    params: Params,
    dense: tuple[dict[str, jax.Array], ...],
    batch: dict[str, jax.Array],
) -> jax.Array:
    hidden_BTD = bind(config, params)(complete_batch(config, batch))
    pooled = [pool_documents(hidden_BTD, batch["documents"], num_slots, how) for how in steps.poolings]
    vectors_BGE = jnp.concatenate(pooled, axis=-1)
    weights = iter(dense)
    for step in steps.after:
        vectors_BGE = (
            normalize(vectors_BGE) if step == "normalize" else _project(vectors_BGE, step, next(weights))
        )
    return vectors_BGE


def _project(vectors_BGE: jax.Array, activation: str, weights: dict[str, jax.Array]) -> jax.Array:
    projected = vectors_BGE @ weights["linear.weight"].T + weights.get("linear.bias", 0)
    return _ACTIVATIONS[activation](projected)


def _read_dense(module: DenseModule, width: int) -> dict[str, np.ndarray]:
    """float32 weight [E,width] and perhaps bias [E], under PyTorch's names."""
    arrays = {name: np.asarray(array, np.float32) for name, array in read_weights(module.folder).items()}
    weight, bias = arrays.get("linear.weight"), arrays.get("linear.bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != width or set(arrays) - _DENSE_NAMES:
        held = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise ValueError(
            f"{module.folder} holds {held}; a Dense module of vectors of {width} numbers has linear.weight "
            f"[..., {width}], and perhaps linear.bias"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{module.folder}: linear.bias {list(bias.shape)} does not fit linear.weight {list(weight.shape)}"
        )
    return arrays


_DENSE_NAMES = {"linear.weight", "linear.bias"}
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "GELU": functools.partial(jax.nn.gelu, approximate=False),
    "Sigmoid": jax.nn.sigmoid,
    "SiLU": jax.nn.silu,
}

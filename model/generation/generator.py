"""Generates text with a causal model or an encoder-decoder: token ids in, token ids out."""

# B prompts (as many as the mesh splits evenly), P prompt tokens, S source tokens, M new tokens, N samples of
# a prompt, R texts, C steps of a chunk

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.generation.beam_search import search_beams
from flaxmill.model.generation.cached_model import EncodedSource, read_source
from flaxmill.model.generation.config import (
    GenerationConfig,
    WeightType,
    check_generates,
    check_prompts,
    room,
)
from flaxmill.model.generation.sampling import Filters
from flaxmill.model.generation.token_loop import (
    NO_TOKEN,
    DecodingState,
    Rules,
    continue_decoding,
    repeat_rows,
    start,
)
from flaxmill.model.generation.unrolled_model import describe_unrolled, unroll
from flaxmill.model.params import Params
from flaxmill.sharding.rules import ACTIVATION_RULES, mesh_axes, num_shards

Prompts = Sequence[Sequence[int]]
Ending = Callable[[Sequence[int]], int | None]
"""Given the new tokens of a text, how many of them to keep, or None while the text goes on."""
Endings = Ending | Sequence[Ending] | None

_CHUNK = 16  # tokens between two looks of the host: often enough to read along, rare enough to cost nothing


class Generator:
    """A model ready to decode: its weights are laid out once, for reading token by token.

    On a mesh (`jax.set_mesh`) rows are split over its data axes and heads over its tensor axis. Make it and
    call it on the same mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        weights: WeightType | None = None,
        *,
        frees: bool = False,
        length_multiple: int = 16,
    ) -> None:
        """Lays out the weights.

        Args:
          params: if they are shapes, dtypes and shardings alone, the generator only compiles.
          weights: float32, bfloat16 or int8: how matrices are kept; None: in the model's compute dtype.
          frees: delete each array of `params` once it is laid out, so that memory holds the weights once.
          length_multiple: prompts and caches are as long as the next multiple, so that few lengths compile.

        Raises:
          ValueError: the model predicts no next token, or it cannot decode with such weights.
        """
        check_generates(config)
        # A model trained with both objectives attends as each row asks; here all rows are causal.
        self.config = dataclasses.replace(config, causal=True)
        self._multiple = length_multiple
        if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
            self._model = describe_unrolled(self.config, params, weights)
        else:
            self._model = unroll(self.config, params, weights, frees=frees)

    def compile(self, prompts: Prompts, options: GenerationConfig) -> None:
        """Compile what `generate` calls for such prompts without beams, and run nothing of it."""
        check_prompts(self.config, prompts)
        arguments, sizes = self._start(_filled_up(prompts), options)
        state: DecodingState = _compile(start, *arguments, **sizes)
        _, _, _, source, rules, _ = arguments
        _compile(continue_decoding, self._model, source, state, rules, jnp.int32(1), chunk=_CHUNK)

    def generate(
        self, prompts: Prompts, options: GenerationConfig | None = None, ending: Endings = None
    ) -> list[list[int]]:
        """Only the new tokens of each text; the `num_samples` texts of a prompt are next to each other.

        Prompts of an encoder-decoder are its sources, with whatever its training put around them. A text ends
        with its end token, at `max_new_tokens`, or where learned positions end.

        Args:
          ending: ends texts early, for instance at a stop string; one for all, or one for each prompt.

        Raises:
          ValueError: a prompt is empty, leaves no room, or has ids that the model lacks.
        """
        options = options or GenerationConfig()
        texts: list[list[int]] = [[] for _ in range(len(prompts) * options.num_samples)]
        for news in self.stream(prompts, options, ending):
            for text, new in zip(texts, news, strict=True):
                text += new
        return texts

    def stream(
        self, prompts: Prompts, options: GenerationConfig | None = None, ending: Endings = None
    ) -> Iterator[list[list[int]]]:
        """Like `generate`, but yields the tokens bit by bit: what each text has gained since the last time.
        Beam search yields all of them at the end."""
        options = options or GenerationConfig()
        check_prompts(self.config, prompts)
        rows = _filled_up(prompts)
        chunks = (self._beams if options.num_beams > 1 else self._tokens)(rows, options)
        endings = ending if isinstance(ending, Sequence) else [ending] * len(prompts)
        texts = [_Text(one) for one in endings for _ in range(options.num_samples)]
        for chunk_CR in chunks:
            yield [text.add(column) for text, column in zip(texts, chunk_CR.T, strict=False)]
            if all(text.has_ended for text in texts):
                return

    def _limits(self, prompts: Prompts, options: GenerationConfig) -> np.ndarray:
        """[B]: the most new tokens for each prompt; an encoder-decoder reads one token before them."""
        lengths = [len(prompt) if self.config.encoder_layers is None else 1 for prompt in prompts]
        left = [room(self.config, length) for length in lengths]
        most = options.max_new_tokens
        return np.asarray([most if tokens is None else min(most, tokens) for tokens in left], np.int32)

    def _tokens(self, rows: Prompts, options: GenerationConfig) -> Iterator[np.ndarray]:
        arguments, sizes = self._start(rows, options)
        _, _, _, source, rules, _ = arguments
        state = start(*arguments, **sizes)
        source = jax.tree.map(lambda x: repeat_rows(x, options.num_samples), source)
        yield np.asarray(state.tokens)[None]
        steps = int(rules.limits.max())
        for done in range(1, steps, _CHUNK):
            if np.asarray(state.is_done).all():
                return
            num_steps = min(_CHUNK, steps - done)
            state, chunk_CR = continue_decoding(
                self._model, source, state, rules, jnp.int32(num_steps), chunk=_CHUNK
            )
            yield np.asarray(chunk_CR)[:num_steps]

    def _start(self, rows: Prompts, options: GenerationConfig) -> tuple[tuple[Any, ...], dict[str, int]]:
        """What `start` is given: arrays, and sizes to compile for."""
        tokens_BP, first_B, source = self._read(rows)
        limits_R = np.repeat(self._limits(rows, options), options.num_samples)
        num_slots = _rounded_up(tokens_BP.shape[1] + int(limits_R.max()), self._multiple)
        rules, keys_R = self._rules(options, limits_R), _keys(options, len(rows))
        sizes = {"num_slots": num_slots, "copies": options.num_samples}
        return (self._model, tokens_BP, first_B, source, rules, keys_R), sizes

    def _beams(self, rows: Prompts, options: GenerationConfig) -> Iterator[np.ndarray]:
        tokens_BP, first_B, source = self._read(rows)
        limits_B = self._limits(rows, options)
        rules, steps = self._rules(options, limits_B), int(limits_B.max())
        lengths_M = np.arange(1, steps + 1, dtype=np.float64)
        beams = search_beams(
            self._model,
            tokens_BP,
            first_B,
            source,
            rules,
            jnp.asarray(lengths_M**options.length_penalty, jnp.float32),
            num_slots=_rounded_up(tokens_BP.shape[1] + steps, self._multiple),
            num_beams=options.num_beams,
            num_ends=rules.end.size,
            ending=options.early_stopping,
        )
        best_BNM = np.asarray(beams.tokens)[:, : options.num_samples]
        yield best_BNM.reshape(-1, steps).T

    def _read(self, rows: Prompts) -> tuple[np.ndarray, np.ndarray, EncodedSource | None]:
        """What the decoder reads first: [B,P] tokens and the number of each row's first; and the source."""
        if self.config.encoder_layers is None:
            tokens_BP, first_B = _padded_left(rows, self._multiple)
            return tokens_BP, first_B, None
        tokens_BS, mask_BS = _padded_right(rows, self._multiple)
        source = jax.jit(read_source)(self._model, tokens_BS, mask_BS)
        start_id = self.config.decoder_start_id
        start_id = self.config.pad_id if start_id is None else start_id
        tokens_B1 = np.full((len(rows), 1), start_id or 0, np.int32)
        return tokens_B1, np.zeros(len(rows), np.int32), source

    def _rules(self, options: GenerationConfig, limits: np.ndarray) -> Rules:
        ends = self.config.end_ids if options.end_ids is None else options.end_ids
        penalty = None if options.repetition_penalty == 1 else options.repetition_penalty
        filters = Filters(penalty, options.temperature or None, options.top_k, options.top_p, options.min_p)
        return Rules(
            filters=Filters(*(None if value is None else jnp.float32(value) for value in filters)),
            end=jnp.asarray(ends, jnp.int32),
            suppressed=jnp.asarray(options.suppressed_ids, jnp.int32) if options.suppressed_ids else None,
            limits=jnp.asarray(limits),
            forces_end=jnp.bool_(True) if options.forced_end and ends else None,
        )


def generate(
    config: ModelConfig,
    params: Params,
    prompts: Prompts,
    options: GenerationConfig | None = None,
    ending: Endings = None,
) -> list[list[int]]:
    """`Generator.generate`, for a model that is used once."""
    return Generator(config, params).generate(prompts, options, ending)


class _Text:
    """The new tokens of one text, and whether there will be more."""

    def __init__(self, ending: Ending | None) -> None:
        self.tokens: list[int] = []
        self.has_ended = False
        self._ending = ending

    def add(self, column: np.ndarray) -> list[int]:
        """The tokens of a chunk that belong to the text."""
        if self.has_ended:
            return []
        before = len(self.tokens)
        new = column[column != NO_TOKEN].tolist()
        self.has_ended = len(new) < len(column)
        self.tokens += new
        kept = self._ending(self.tokens) if self._ending is not None else None
        if kept is not None:
            self.has_ended = True
            self.tokens = self.tokens[:kept]
        return self.tokens[before:]


def _keys(options: GenerationConfig, num_prompts: int) -> jax.Array:
    """One key for each sample of a prompt, the same for every prompt: a row does not depend on its batch."""
    key = jax.random.key(options.seed)
    samples = jnp.tile(jnp.arange(options.num_samples), num_prompts)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, samples)


def _filled_up(prompts: Prompts) -> list[Sequence[int]]:
    """As many rows as the mesh in use splits evenly, the first prompt again at the end."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else num_shards(mesh_axes("batch", ACTIVATION_RULES, mesh), mesh)
    return [*prompts, *[prompts[0]] * (_rounded_up(len(prompts), shards) - len(prompts))]


def _compile(function: Any, *arguments: Any, **sizes: int) -> Any:
    """Compile a jitted function's call; returns the shapes, dtypes and shardings of what it would give."""
    compiled = function.lower(*arguments, **sizes).compile()
    return jax.tree.map(_describe, compiled.out_info, compiled.output_shardings)


def _describe(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _padded_left(rows: Prompts, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [B,P] tokens, and [B] where each row begins."""
    length = _rounded_up(max(map(len, rows)), multiple)
    tokens_BP = np.zeros((len(rows), length), np.int32)
    for row, tokens in enumerate(rows):
        tokens_BP[row, length - len(tokens) :] = tokens
    return tokens_BP, np.asarray([length - len(tokens) for tokens in rows], np.int32)


def _padded_right(rows: Prompts, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [B,S] tokens and mask."""
    length = _rounded_up(max(map(len, rows)), multiple)
    tokens_BS, mask_BS = np.zeros((2, len(rows), length), np.int32)
    for row, tokens in enumerate(rows):
        tokens_BS[row, : len(tokens)] = tokens
        mask_BS[row, : len(tokens)] = 1
    return tokens_BS, mask_BS


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

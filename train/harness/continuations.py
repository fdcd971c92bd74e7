"""How likely a model finds given tokens after others, for many short questions at once.

Rows are filled up to a few lengths, so that a few programs serve all of them, and logits are computed only
where they are asked for.
"""

# B rows, T tokens of a row, C scored tokens of a row, D model, V vocabulary

import functools
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import apply, bind, token_logits
from flaxmill.model.params import Params
from flaxmill.train.inference.text_model import TextModel

_LEAST_TOKENS, _LEAST_SCORED = 32, 4
"""The least lengths that rows are filled up to; the others are their doubles."""
_UNSTATED_LENGTH = 2048
"""As the harness assumes of a model that states none."""


class Continuation(NamedTuple):
    """Tokens to score, and those before them."""

    context: Sequence[int]
    tokens: Sequence[int]


class Score(NamedTuple):
    """The sum of the log-probabilities of the tokens, in nats, and whether each was the likeliest."""

    log_probability: float
    is_greedy: bool


class _Row(NamedTuple):
    """One question as a row, and which one it is."""

    number: int
    inputs: list[int]
    targets: list[int]
    """Those of the last inputs."""


def longest_row(config: ModelConfig) -> int:
    """The most tokens that the model reads at a time."""
    return config.max_positions or _UNSTATED_LENGTH


def score_continuations(
    model: TextModel, continuations: Sequence[Continuation], batch_size: int
) -> list[Score]:
    """A score for each, in order. What is too long for the model loses the beginning of its context.

    Raises:
      ValueError: a context or a continuation is empty, or a continuation alone is too long for the model.
    """
    limit = longest_row(model.config)
    rows = [_make_row(number, one, limit) for number, one in enumerate(continuations)]
    scores: dict[int, Score] = {}
    with jax.set_mesh(model.mesh):
        for batch, num_tokens, num_scored in _batches(rows, batch_size, limit):
            arrays = _fill(batch, batch_size, num_tokens, num_scored)
            sums_B, greedy_B = map(np.asarray, _score(model.config, model.params, *arrays))
            for row, total, is_greedy in zip(batch, sums_B, greedy_B, strict=False):
                scores[row.number] = Score(float(total), bool(is_greedy))
    return [scores[number] for number in range(len(rows))]


def _make_row(number: int, one: Continuation, limit: int) -> _Row:
    if not one.context or not one.tokens:
        what = "continuation" if one.context else "context"
        raise ValueError(f"the {what} of request {number} has no token; give each of them some text")
    if len(one.tokens) > limit:
        raise ValueError(
            f"the continuation of request {number} has {len(one.tokens)} tokens, and the model reads "
            f"{limit}; use a task with shorter answers"
        )
    tokens = [*one.context, *one.tokens][-(limit + 1) :]
    return _Row(number, tokens[:-1], tokens[-len(one.tokens) :])


def _batches(rows: Sequence[_Row], batch_size: int, limit: int) -> Iterator[tuple[Sequence[_Row], int, int]]:
    """Rows that are filled up to the same lengths, the longest first, since they take most memory."""

    def lengths(row: _Row) -> tuple[int, int]:
        num_tokens = min(_filled_length(len(row.inputs), _LEAST_TOKENS), limit)
        return num_tokens, min(_filled_length(len(row.targets), _LEAST_SCORED), num_tokens)

    for (num_tokens, num_scored), same in groupby(sorted(rows, key=lengths, reverse=True), key=lengths):
        group = list(same)
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size], num_tokens, num_scored


def _filled_length(number: int, least: int) -> int:
    """The least double of `least` that is as large as the number."""
    return least << max(0, -(-number // least) - 1).bit_length()


def _fill(rows: Sequence[_Row], batch_size: int, num_tokens: int, num_scored: int) -> tuple[np.ndarray, ...]:
    """Tokens and mask [B,T], and the places, targets and weights [B,C] of what is scored."""
    tokens_BT, mask_BT = np.zeros((2, batch_size, num_tokens), np.int32)
    places_BC, targets_BC = np.zeros((2, batch_size, num_scored), np.int32)
    weights_BC = np.zeros((batch_size, num_scored), np.float32)
    mask_BT[:, 0] = 1  # rows that fill up the batch have one token
    for number, row in enumerate(rows):
        size, scored = len(row.inputs), len(row.targets)
        tokens_BT[number, :size], mask_BT[number, :size] = row.inputs, 1
        places_BC[number, :scored] = np.arange(size - scored, size)
        targets_BC[number, :scored], weights_BC[number, :scored] = row.targets, 1
    return tokens_BT, mask_BT, places_BC, targets_BC, weights_BC


@functools.partial(jax.jit, static_argnums=0)
def _score(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    mask_BT: jax.Array,
    places_BC: jax.Array,
    targets_BC: jax.Array,
    weights_BC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """[B]: sums of log-probabilities, and whether every target is the likeliest token."""
    hidden_BTD = apply(config, params, {"tokens": tokens_BT, "mask": mask_BT})["hidden"]
    picked_BCD = jnp.take_along_axis(hidden_BTD, places_BC[..., None], axis=1)

    def of_row(row: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        picked_CD, targets_C, weights_C = row
        logits_CV = token_logits(bind(config, params), picked_CD)
        log_probs_C = jnp.take_along_axis(jax.nn.log_softmax(logits_CV), targets_C[:, None], axis=-1)[:, 0]
        is_likeliest_C = logits_CV.argmax(-1) == targets_C
        return (log_probs_C * weights_C).sum(), (is_likeliest_C | (weights_C == 0)).all()

    # Row by row: the logits of a whole batch of long rows would be gigabytes.
    return jax.lax.map(of_row, (picked_BCD, targets_BC, weights_BC))

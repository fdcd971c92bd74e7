"""Scores of continuations equal those from the logits of whole rows, however rows are filled up."""

import jax.numpy as jnp
import numpy as np
import pytest
from random_models import MAX_POSITIONS, causal_directory

from flaxmill.model import apply
from flaxmill.train.harness import continuations
from flaxmill.train.harness.continuations import Continuation, score_continuations
from flaxmill.train.inference.text_model import load_text_model

# Sums of float32 log-probabilities, in another order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model():
    return load_text_model(causal_directory())


def draw(model, *lengths):
    """Continuations of random tokens, of these lengths of context and continuation."""
    rng = np.random.default_rng(0)
    size = model.config.vocab_size
    return [Continuation(*(rng.integers(0, size, number).tolist() for number in pair)) for pair in lengths]


def expected(model, one):
    """From the logits of the row alone."""
    tokens = [*one.context, *one.tokens][-(MAX_POSITIONS + 1) :]
    row = jnp.asarray([tokens[:-1]], jnp.int32)
    logits_TV = np.asarray(apply(model.config, model.params, {"tokens": row})["logits"][0], np.float64)
    logits_CV = logits_TV[-len(one.tokens) :]
    log_probs_CV = logits_CV - np.log(np.exp(logits_CV).sum(-1, keepdims=True))
    return log_probs_CV[range(len(one.tokens)), one.tokens].sum(), logits_CV.argmax(-1).tolist() == one.tokens


LENGTHS = [(1, 1), (5, 2), (31, 1), (40, 9), (3, 33), (60, 4), (2, 94), (1, 96)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_are_those_of_whole_rows_in_order(model, batch_size):
    asked = draw(model, *LENGTHS)
    found = score_continuations(model, asked, batch_size)
    for score, one in zip(found, asked, strict=True):
        total, is_greedy = expected(model, one)
        assert score.log_probability == pytest.approx(total, abs=TOLERANCE * len(one.tokens))
        assert score.is_greedy == is_greedy


def test_the_likeliest_tokens_are_greedy(model):
    context = draw(model, (7, 1))[0].context
    tokens: list[int] = []
    for _ in range(3):
        row = jnp.asarray([[*context, *tokens]], jnp.int32)
        tokens.append(int(apply(model.config, model.params, {"tokens": row})["logits"][0, -1].argmax()))
    other = [*tokens[:2], (tokens[2] + 1) % model.config.vocab_size]
    found = score_continuations(model, [Continuation(context, tokens), Continuation(context, other)], 4)
    assert [score.is_greedy for score in found] == [True, False]


def test_a_long_context_loses_its_beginning(model):
    (long,) = draw(model, (300, 5))
    cut = Continuation(long.context[-(MAX_POSITIONS - 4) :], long.tokens)
    whole, short = score_continuations(model, [long, cut], 2)
    assert whole == short


def test_rows_are_filled_up_to_few_lengths(model, monkeypatch):
    shapes = set()
    fill = continuations._fill

    def record(rows, batch_size, num_tokens, num_scored):
        arrays = fill(rows, batch_size, num_tokens, num_scored)
        shapes.add(tuple(x.shape for x in arrays))
        return arrays

    monkeypatch.setattr(continuations, "_fill", record)
    score_continuations(model, draw(model, *((context, 3) for context in range(1, 94))), 8)
    assert {shape[0][1] for shape in shapes} == {32, 64, MAX_POSITIONS}
    assert {shape[2][1] for shape in shapes} == {4}


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (Continuation([], [1]), "the context of request 0 has no token; give each of them some text"),
        (Continuation([1], []), "the continuation of request 0 has no token; give each of them some text"),
        (
            Continuation([1], [2] * 97),
            "the continuation of request 0 has 97 tokens, and the model reads 96; use a task with",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(model, one, line):
    with pytest.raises(ValueError, match=rf"^{line}"):
        score_continuations(model, [one], 2)


def test_nothing_asked_is_nothing_answered(model):
    assert score_continuations(model, [], 4) == []


def test_equal_lengths_share_a_program(model):
    score_continuations(model, draw(model, (5, 2), (9, 3)), 2)
    before = continuations._score._cache_size()  # type: ignore[attr-defined]
    score_continuations(model, draw(model, (20, 4), (30, 1)), 2)
    assert continuations._score._cache_size() == before  # type: ignore[attr-defined]

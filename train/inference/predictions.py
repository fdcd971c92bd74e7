"""What a fine-tuned model answers for each held-out example: a label, a number, tags, a span, a text."""

# B batch, T tokens, C classes

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from flaxmill.data.batches import Batches
from flaxmill.data.examples.answer_rows import OUTSIDE, locate_contexts
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.tagged_rows import NO_WORD, locate_words
from flaxmill.data.objectives import find_function
from flaxmill.data.stored_rows import NumpyBatch
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.functional import apply
from flaxmill.model.generation.config import GenerationConfig
from flaxmill.model.generation.generator import Generator
from flaxmill.model.params import Params
from flaxmill.model.pooling import normalize, pool_documents
from flaxmill.sharding.placement import place_rows
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.reference import measure_pairs
from flaxmill.train.inference.text_model import with_decoder_start
from flaxmill.train.run.token_ids import with_token_ids

MAX_ANSWER_TOKENS = 30
# The best pair is sought among so many likeliest starts and ends, as in transformers' run_qa.
_CANDIDATES = 20
_ROWS_COMPARED = 1024  # texts that are compared with all others at once

Outputs = dict[str, np.ndarray]


class Prediction(NamedTuple):
    """An answer, and what else is known about it, such as probabilities."""

    value: Any
    details: dict[str, Any]


class Model(NamedTuple):
    """A fine-tuned model, with what it takes to predict."""

    experiment: Experiment
    params: Params
    mesh: Mesh
    tokenizer: Tokenizer


def predict(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """A prediction for each example of the split that `batches` reads, in order.

    classification: a label, a list of the labels that apply, or a float for numbers; token_classification: a
    list with the tag of each word, None for a word that was cut off; question_answering: a piece of the
    context, "" for none; seq2seq: a text.
    """
    predict_ = model.experiment.definition.predict
    assert predict_ is not None, f"{model.experiment.objective} has no examples"
    return find_function(predict_)(model, batches, examples)


def predict_classes(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """A label, the labels that apply, or a number for each example."""
    by_type = {"number": _numbers, "multi_label": _label_sets, "category": _labels}
    return list(by_type[model.experiment.data.label_type](model, batches))


def _numbers(model: Model, batches: Batches) -> Iterator[Prediction]:
    for outputs in _run(model, batches):
        yield from (Prediction(float(value), {}) for value in outputs["logits"][:, 0])


def _labels(model: Model, batches: Batches) -> Iterator[Prediction]:
    labels = model.experiment.data.labels
    for outputs in _run(model, batches):
        for probabilities_C in _softmax(outputs["logits"]):
            shares = {label: float(share) for label, share in zip(labels, probabilities_C, strict=True)}
            yield Prediction(labels[int(probabilities_C.argmax())], {"probabilities": shares})


def _label_sets(model: Model, batches: Batches) -> Iterator[Prediction]:
    """The labels that are likelier than not."""
    labels = model.experiment.data.labels
    for outputs in _run(model, batches):
        for logits_C in outputs["logits"].astype(np.float64):
            shares = dict(zip(labels, (1 / (1 + np.exp(-logits_C))).tolist(), strict=True))
            applying = [label for label, logit in zip(labels, logits_C, strict=True) if logit > 0]
            yield Prediction(applying, {"probabilities": shares})


def predict_tags(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """The tag of each word of each example, None for words that were cut off."""
    return list(_tags(model, batches, examples))


def _tags(model: Model, batches: Batches, examples: Sequence[Example]) -> Iterator[Prediction]:
    labels, data = model.experiment.data.labels, model.experiment.data
    words = locate_words(examples, data, model.tokenizer)
    rows = (row for outputs in _run(model, batches) for row in outputs["logits"].argmax(-1))
    for example, classes_T, words_T in zip(examples, rows, words, strict=True):
        tags: list[str | None] = [None] * len(example.texts)
        for place in np.flatnonzero(words_T != NO_WORD):
            tags[int(words_T[place])] = labels[int(classes_T[place])]
        yield Prediction(tags, {})


class _Span(NamedTuple):
    """A span of a context with its score: the sum of its ends' logits."""

    score: float
    start: int
    end: int


def predict_answers(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """The best span over all windows of a context, or "" if the score of "" is higher in every window."""
    best = [_Span(-np.inf, 0, 0)] * len(examples)
    none = [np.inf] * len(examples)
    places = locate_contexts(examples, model.experiment.data, model.tokenizer)
    logits = (
        ends
        for outputs in _run(model, batches)
        for ends in zip(outputs["start_logits"], outputs["end_logits"], strict=True)
    )
    for (number, offsets_T2), (start_T, end_T) in zip(places, logits, strict=True):
        best[number] = max(best[number], _best_span(start_T, end_T, offsets_T2))
        none[number] = min(none[number], float(start_T[0] + end_T[0]))
    predictions = []
    for example, span, score in zip(examples, best, none, strict=True):
        text = example.texts[1][span.start : span.end] if span.score >= score else ""
        predictions.append(Prediction(text, {"start": span.start, "score": float(span.score - score)}))
    return predictions


def _best_span(start_T: np.ndarray, end_T: np.ndarray, offsets_T2: np.ndarray) -> _Span:
    inside = offsets_T2[:, 0] != OUTSIDE
    starts, ends = (np.where(inside, logits_T, -np.inf) for logits_T in (start_T, end_T))
    found = _Span(-np.inf, 0, 0)
    for first in np.argsort(-starts, kind="stable")[:_CANDIDATES]:
        for last in np.argsort(-ends, kind="stable")[:_CANDIDATES]:
            if first <= last < first + MAX_ANSWER_TOKENS:
                span = (int(offsets_T2[first, 0]), int(offsets_T2[last, 1]))
                found = max(found, _Span(float(starts[first] + ends[last]), *span))
    return found


def predict_preferences(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """For each pair the answer that the model has come to find likelier than before, chosen or rejected, and
    the rewards of both."""
    beta = model.experiment.beta
    logps_N2, reference_N2 = measure_pairs(model.experiment, model.mesh, batches, model.params).swapaxes(0, 1)
    rewards_N2 = beta * (logps_N2 - reference_N2)
    return [
        Prediction(
            "chosen" if chosen > rejected else "rejected",
            {"rewards/chosen": float(chosen), "rewards/rejected": float(rejected)},
        )
        for chosen, rejected in rewards_N2
    ]


def predict_similarities(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """For each pair of texts the second text of any pair that is nearest to its first one, the cosine of the
    two, and at which rank the pair's own second text is, from 1."""
    outputs = [outputs["vectors"] for outputs in _run(model, batches, _pair_vectors)]
    first_ND, second_ND = np.concatenate(outputs).swapaxes(0, 1)
    predictions = []
    for start in range(0, len(first_ND), _ROWS_COMPARED):
        cosines_BN = first_ND[start : start + _ROWS_COMPARED] @ second_ND.T
        for number, cosines_N in enumerate(cosines_BN, start):
            own = cosines_N[number]
            details = {"similarity": float(own), "rank": 1 + int((cosines_N > own).sum())}
            predictions.append(Prediction(examples[int(cosines_N.argmax())].texts[1], details))
    return predictions


def _pair_vectors(model: Model, params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    experiment = model.experiment
    hidden_BTD = apply(experiment.model, params, batch)["hidden"]
    return {"vectors": normalize(pool_documents(hidden_BTD, batch["documents"], 2, experiment.text_pooling))}


def predict_texts(model: Model, batches: Batches, examples: Sequence[Example]) -> list[Prediction]:
    """Greedily decoded texts."""
    return list(_texts(model, batches))


def _texts(model: Model, batches: Batches) -> Iterator[Prediction]:
    experiment = model.experiment
    generator = Generator(with_decoder_start(experiment.model, model.tokenizer), model.params)
    ends = with_token_ids(experiment.model, model.tokenizer).end_ids
    options = GenerationConfig(max_new_tokens=experiment.data.target_length, end_ids=ends)
    for number in range(batches.num_batches):
        rows = batches.batch(number)
        for tokens in generator.generate(_prompts(_keep_real(rows, rows)), options):
            yield Prediction(model.tokenizer.decode(tokens), {})


def _prompts(rows: NumpyBatch) -> list[list[int]]:
    """What a decoder reads before it writes, or the source of an encoder-decoder."""
    lengths = rows["mask"].sum(1)
    if "decoder_tokens" not in rows:
        weighed = rows["weights"] > 0
        lengths = np.where(weighed.any(1), weighed.argmax(1) + 1, lengths)
    return [tokens[:length].tolist() for tokens, length in zip(rows["tokens"], lengths, strict=True)]


def _logits(model: Model, params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    outputs = apply(model.experiment.model, params, batch)
    return {name: value for name, value in outputs.items() if name.endswith("logits")}


def _run(model: Model, batches: Batches, outputs_of: Callable[..., Any] = _logits) -> Iterator[Outputs]:
    """The outputs for each batch, of the head or what else is asked for."""
    compiled = jax.jit(functools.partial(outputs_of, model))
    for number in range(batches.num_batches):
        rows = batches.batch(number)
        outputs = jax.device_get(compiled(model.params, place_rows(model.mesh, rows, batches.batch_size)))
        yield _keep_real(outputs, rows)


def _keep_real(values: dict[str, np.ndarray], rows: NumpyBatch) -> dict[str, np.ndarray]:
    """The values without the rows beyond the end of the split."""
    is_real = rows["example_numbers"] >= 0
    return {name: np.asarray(value)[is_real] for name, value in values.items()}


def _softmax(logits_BC: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits_BC - logits_BC.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)

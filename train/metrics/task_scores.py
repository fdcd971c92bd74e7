"""Scores predictions against what was wanted, with the libraries that others score with."""

import functools
import importlib
import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxmill.train.metrics.progress import warn


def find_library(module: str) -> Any:
    """A module of the extra `tasks`; None, and the first time a warning, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        _warn_missing(module.partition(".")[0])
        return None


@functools.cache  # a run evaluates often, and says this once
def _warn_missing(name: str) -> None:
    warn(f"what {name} scores and draws is left out: it is not installed; pip install 'flaxmill[tasks]'")


def classification_scores(
    wanted: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """accuracy, f1_macro, Matthews' correlation, with two labels f1 of the second; the majority's share.

    f1_macro is the mean over the labels that are wanted or predicted at all, as scikit-learn takes it.
    """
    majority = max(Counter(wanted).values()) / len(wanted)
    return _class_scores(Counter(zip(wanted, predicted, strict=True)), labels) | {"majority": majority}


def counted_scores(sums: Mapping[str, Any]) -> dict[str, float]:
    """The scores of `classification_scores`, without the majority, or of `multi_label_scores`, from what
    the sums of task_losses.py count; no scores where they count nothing."""
    if "label_counts" in sums:
        return _label_set_scores(sums["label_counts"])
    if "confusion" not in sums:
        return {}
    counts = sums["confusion"]
    pairs = {(int(wanted), int(taken)): counts[wanted, taken] for wanted, taken in np.argwhere(counts)}
    return _class_scores(pairs, range(len(counts))) if pairs else {}


def multi_label_scores(
    wanted: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, float]:
    """accuracy (all labels of an example are right), f1_micro over all labels, f1_macro over those that are
    wanted or predicted at all: scikit-learn's scores of label sets."""
    wanted_NC, predicted_NC = (
        np.array([[label in one for label in labels] for one in sets]) for sets in (wanted, predicted)
    )
    counted = (wanted_NC & predicted_NC, ~wanted_NC & predicted_NC, wanted_NC & ~predicted_NC)
    scores = _label_set_scores(np.stack([one_NC.sum(0) for one_NC in counted], axis=-1))
    return {"accuracy": float((wanted_NC == predicted_NC).all(1).mean())} | scores


def _label_set_scores(counts_C3: np.ndarray) -> dict[str, float]:
    """F1 from how often each label was rightly, wrongly and not predicted; 0 where no label occurs."""
    twice_right = 2 * counts_C3[:, 0]
    all_of_label = twice_right + counts_C3[:, 1] + counts_C3[:, 2]
    occurs = all_of_label > 0
    if not occurs.any():
        return {"f1_micro": 0.0, "f1_macro": 0.0}
    return {
        "f1_micro": float(twice_right.sum() / all_of_label.sum()),
        "f1_macro": float((twice_right[occurs] / all_of_label[occurs]).mean()),
    }


def _class_scores(pairs: Mapping[tuple[Any, Any], float], labels: Sequence[Any]) -> dict[str, float]:
    """Scores from `pairs`: how often each (wanted, predicted) came."""
    counts = list(pairs.values())
    right = sum(count for (wanted, predicted), count in pairs.items() if wanted == predicted)
    scores = {"accuracy": right / sum(counts)}
    metrics = find_library("sklearn.metrics")
    if metrics is None:
        return scores
    wanted, predicted = zip(*pairs, strict=True)
    of = dict(average="macro", zero_division=0, sample_weight=counts)
    found = {label for pair in pairs for label in pair}
    present = [label for label in labels if label in found]
    scores["f1_macro"] = metrics.f1_score(wanted, predicted, labels=present, **of)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of one label alone, and is 0 then
        scores["matthews"] = metrics.matthews_corrcoef(wanted, predicted, sample_weight=counts)
    if len(labels) == 2:
        # The macro mean of one label: a word that was cut off has neither label, which no binary score knows.
        scores["f1"] = metrics.f1_score(wanted, predicted, labels=[labels[1]], **of)
    return {name: float(value) for name, value in scores.items()}


def regression_scores(wanted: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation, and the mean squared error; correlations of constants are NaN."""
    squares = [(w - p) ** 2 for w, p in zip(wanted, predicted, strict=True)]
    scores = {"mean_squared_error": sum(squares) / len(squares)}
    stats = find_library("scipy.stats")
    if stats is None:
        return scores
    varies = len(set(wanted)) > 1 and len(set(predicted)) > 1
    for name, correlate in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        scores[name] = float(correlate(wanted, predicted).statistic) if varies else float("nan")
    return scores


def tag_scores(
    wanted: Sequence[Sequence[str]], predicted: Sequence[Sequence[str | None]], labels: Sequence[str]
) -> dict[str, float]:
    """Like `classification_scores`, over all words; a word that was cut off, None, is wrong.

    Where the labels mark spans (O and B-KIND, I-KIND; also with E- and S-, or L- and U-) it adds
    entity_precision, entity_recall and entity_f1, over spans as CoNLL's conlleval counts them (Tjong Kim Sang
    and De Meulder 2003), and seqeval by default: a span is right if it has the same words and kind.
    """
    flat_wanted = [tag for tags in wanted for tag in tags]
    flat_predicted = ["" if tag is None else tag for tags in predicted for tag in tags]
    scores = classification_scores(flat_wanted, flat_predicted, labels)
    return scores | (_entity_scores(wanted, predicted) if _mark_spans(labels) else {})


def answer_scores(wanted: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """exact_match and f1 of SQuAD (Rajpurkar et al. 2016, 2018): the best over the answers of a question.

    A question without an answer wants the empty text.
    """
    exact, overlap = [], []
    for each, predicted_one in zip(wanted, predicted, strict=True):
        # As in the script of version 2.0, an answer of articles and punctuation alone counts for nothing.
        answers = [answer for answer in each if _normal(answer)] or [""]
        exact.append(max(float(_normal(predicted_one) == _normal(answer)) for answer in answers))
        overlap.append(max(_word_f1(answer, predicted_one) for answer in answers))
    return {"exact_match": sum(exact) / len(exact), "f1": sum(overlap) / len(overlap)}


def text_scores(wanted: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF of sacrebleu (0 to 100), ROUGE-1, -2 and -L F-measures (0 to 1), and exact_match."""
    exact = [w.strip() == p.strip() for w, p in zip(wanted, predicted, strict=True)]
    scores = {"exact_match": sum(exact) / len(exact)}
    if (sacrebleu := find_library("sacrebleu")) is not None:
        scores["bleu"] = float(sacrebleu.corpus_bleu(list(predicted), [list(wanted)]).score)
        scores["chrf"] = float(sacrebleu.corpus_chrf(list(predicted), [list(wanted)]).score)
    if (rouge := find_library("rouge_score.rouge_scorer")) is not None:
        names = ("rouge1", "rouge2", "rougeL")
        scorer = rouge.RougeScorer(names, use_stemmer=False)
        each = [scorer.score(w, p) for w, p in zip(wanted, predicted, strict=True)]
        scores |= {name: sum(score[name].fmeasure for score in each) / len(each) for name in names}
    return scores


def _mark_spans(labels: Sequence[str]) -> bool:
    """Whether the labels are those of IOB1 or 2, IOBES or BILOU; marks without kinds need a B among them."""
    marks = {label.partition("-")[0] for label in labels if label != "O"}
    if not marks or not (marks <= {"B", "I", "E", "S"} or marks <= {"B", "I", "L", "U"}):
        return False
    return "B" in marks or marks == {"I"} or all("-" in label for label in labels if label != "O")


def _entity_scores(
    wanted: Sequence[Sequence[str]], predicted: Sequence[Sequence[str | None]]
) -> dict[str, float]:
    spans = [(_entities(w), _entities(p)) for w, p in zip(wanted, predicted, strict=True)]
    right = sum(len(w & p) for w, p in spans)
    num_wanted, num_predicted = (sum(len(pair[side]) for pair in spans) for side in (0, 1))
    return {
        "entity_precision": right / max(num_predicted, 1),
        "entity_recall": right / max(num_wanted, 1),
        "entity_f1": 2 * right / max(num_wanted + num_predicted, 1),
    }


def _entities(tags: Sequence[str | None]) -> set[tuple[int, int, str]]:
    """(start, end, kind) of each entity.

    I-, E- and L- continue an entity of their kind, or else begin one; E-, L-, S- and U- end theirs.
    """
    found: set[tuple[int, int, str]] = set()
    start, kind = 0, None
    for place, tag in enumerate([*tags, None]):
        mark, _, its_kind = (tag or "O").partition("-")
        if kind is not None and (mark not in ("I", "E", "L") or its_kind != kind):
            found.add((start, place, kind))
            kind = None
        if mark != "O" and kind is None:
            start, kind = place, its_kind
        if kind is not None and mark in ("E", "L", "S", "U"):
            found.add((start, place + 1, kind))
            kind = None
    return found


def _normal(text: str) -> str:
    """The text without case, punctuation, articles and needless blanks, as SQuAD compares it."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _word_f1(wanted: str, predicted: str) -> float:
    wanted_words, words = _normal(wanted).split(), _normal(predicted).split()
    if not wanted_words or not words:
        return float(wanted_words == words)
    shared = sum((Counter(wanted_words) & Counter(words)).values())
    return 2 * shared / (len(wanted_words) + len(words))

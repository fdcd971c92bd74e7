"""Scores equal those of the libraries and papers that define them."""

import math
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flaxmill.train.metrics import task_scores as task_metrics
from flaxmill.train.metrics.task_scores import (
    answer_scores,
    classification_scores,
    counted_scores,
    multi_label_scores,
    regression_scores,
    tag_scores,
    text_scores,
)


def test_two_labels_have_f1_of_the_second():
    wanted, predicted = ["no", "no", "yes", "yes", "yes"], ["no", "yes", "yes", "yes", "no"]
    scores = classification_scores(wanted, predicted, ["no", "yes"])
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["f1_macro"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # (TP TN - FP FN) / sqrt of the four sums of the table
    assert scores["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert scores["majority"] == pytest.approx(3 / 5)


def test_counts_of_an_evaluation_score_as_their_rows_do():
    random = np.random.default_rng(0)
    wanted, predicted = random.integers(0, 3, 50), random.integers(0, 3, 50)
    confusion = np.zeros((3, 3))
    np.add.at(confusion, (wanted, predicted), 1)
    expected = classification_scores([*map(str, wanted)], [*map(str, predicted)], ["0", "1", "2"])
    del expected["majority"]
    assert counted_scores({"confusion": confusion, "loss": 1.0}) == pytest.approx(expected, rel=1e-12)
    assert counted_scores({"causal": 1.0}) == {}


def test_one_label_alone_is_scored_without_a_warning():
    scores = counted_scores({"confusion": np.array([[4.0, 0], [0, 0]])})
    assert scores == {"accuracy": 1, "f1_macro": 1, "matthews": 0, "f1": 0}


def test_labels_that_nobody_wants_or_predicts_are_left_out_of_f1_macro():
    wanted, predicted = ["a", "b", "b"], ["a", "b", "a"]
    labels = [*"abcdefgh"]
    # 2 of 3 are right: F1 is 2/3 for either label, and there are six more labels.
    assert classification_scores(wanted, predicted, labels)["f1_macro"] == pytest.approx(2 / 3)
    expected = f1_score(wanted, predicted, average="macro")
    assert classification_scores(wanted, predicted, labels)["f1_macro"] == pytest.approx(expected)
    confusion = np.zeros((8, 8))
    np.add.at(confusion, ([0, 1, 1], [0, 1, 0]), 1)
    assert counted_scores({"confusion": confusion})["f1_macro"] == pytest.approx(expected)
    # A label that is only predicted counts, with 0; a word that was cut off has no label.
    assert classification_scores(["a"], ["b"], labels)["f1_macro"] == 0
    assert tag_scores([["a", "a"]], [["a", None]], labels)["f1_macro"] == pytest.approx(2 / 3)


def test_a_word_that_was_cut_off_is_wrong():
    scores = tag_scores([["a", "b"], ["a"]], [["a", None], ["a"]], ["a", "b"])
    assert scores["accuracy"] == pytest.approx(2 / 3)


def test_entities_are_right_when_words_and_kind_are():
    wanted = [["B-PER", "I-PER", "O", "B-LOC"], ["I-LOC", "B-LOC", "I-PER"]]
    predicted = [["B-PER", "I-PER", "O", "I-LOC"], ["I-LOC", "I-LOC", None]]
    labels = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    scores = tag_scores(wanted, predicted, labels)
    # 2 + 3 are wanted (an I- of another kind begins one), 2 + 1 are predicted, and the first two agree.
    assert scores["entity_precision"] == pytest.approx(2 / 3)
    assert scores["entity_recall"] == pytest.approx(2 / 5)
    assert scores["entity_f1"] == pytest.approx(2 * 2 / (3 + 5))
    assert "entity_f1" not in tag_scores([["a", "O"]], [["a", "O"]], ["O", "a"])


@pytest.mark.parametrize(("inside", "end", "single"), [("I", "E", "S"), ("I", "L", "U")])
def test_entities_with_marked_ends_are_counted(inside, end, single):
    def tags(*names):
        spelled = {"B": "B", "I": inside, "E": end, "S": single}
        return [name if name == "O" else f"{spelled[name[0]]}{name[1:]}" for name in names]

    labels = tags("B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y", "O")
    wanted = [tags("B-X", "I-X", "E-X", "S-X", "O", "S-Y"), tags("B-Y", "E-Y", "B-Y", "E-Y")]
    assert tag_scores(wanted, wanted, labels)["entity_f1"] == 1
    # Right are X of words 0 to 2 and, in the second text, both Y (B-Y I-Y is one); S-X was taken for S-Y.
    predicted = [tags("B-X", "I-X", "E-X", "S-Y", "O", "O"), tags("B-Y", "I-Y", "B-Y", "E-Y")]
    scores = tag_scores(wanted, predicted, labels)
    assert scores["entity_precision"] == pytest.approx(3 / 4)
    assert scores["entity_recall"] == pytest.approx(3 / 5)
    # Tags that no scheme allows are read as by conlleval and seqeval: E or I without a B begins an entity.
    odd = [tags("O", "I-X", "E-X", "E-X", "I-Y", "S-Y")]
    meant = [tags("O", "B-X", "E-X", "S-X", "S-Y", "S-Y")]
    assert tag_scores(meant, odd, labels)["entity_f1"] == 1


@pytest.mark.parametrize(
    ("labels", "marks_spans"),
    [
        (["O", "B-X", "I-X"], True),
        (["I-X", "O"], True),
        (["B", "I", "O"], True),
        (["S-X", "O"], True),
        (["B-X", "L-X", "O"], True),
        (["B-X", "E-X", "L-X"], False),
        (["E", "S", "O"], False),
        (["O"], False),
        (["NN", "VB", "B-X"], False),
    ],
)
def test_only_labels_that_mark_spans_have_entities(labels, marks_spans):
    assert ("entity_f1" in tag_scores([["O"]], [["O"]], labels)) == marks_spans


def test_correlations_of_constants_are_not_numbers():
    scores = regression_scores([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(0.9819805)
    assert scores["mean_squared_error"] == pytest.approx(1 / 3)
    assert math.isnan(regression_scores([1.0, 2.0], [3.0, 3.0])["pearson"])


def test_answers_compare_as_squad_does():
    scores = answer_scores(
        [["the Eiffel Tower", "Eiffel Tower, Paris"], [], ["in 1889"]], ["Eiffel tower!", "", "1889 or 1890"]
    )
    # Case, articles and punctuation do not count; one of three words is shared with the two wanted.
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx((1 + 1 + 2 * 1 / (2 + 3)) / 3)


@pytest.mark.parametrize(
    ("answers", "predicted", "exact", "f1"),
    [
        (["the", "Ana"], "", 0, 0),
        (["the", "Ana"], "the", 0, 0),
        (["the", "Ana"], "An Ana!", 1, 1),
        (["the"], "", 1, 1),
        (["the", "..."], "a", 1, 1),
        (["the"], "Ana", 0, 0),
        (["a", "Ana Brito"], "Ana", 0, 2 / 3),
    ],
)
def test_an_answer_of_articles_and_signs_counts_for_nothing_as_in_squad_2(answers, predicted, exact, f1):
    """evaluate-v2.0.py leaves out answers that are empty once normalised, and wants "" where none is left."""
    assert answer_scores([answers], [predicted]) == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_an_answer_where_there_is_none_is_wrong():
    assert answer_scores([[], ["yes"]], ["no", ""]) == {"exact_match": 0.0, "f1": 0.0}


def test_equal_texts_have_full_scores():
    scores = text_scores(["one two three four five"], ["one two three four five"])
    assert scores == pytest.approx(
        {"exact_match": 1, "bleu": 100, "chrf": 100, "rouge1": 1, "rouge2": 1, "rougeL": 1}
    )


def test_without_a_library_its_scores_are_left_out_and_the_extra_is_named_once(monkeypatch, capsys):
    for module in ("sacrebleu", "rouge_score.rouge_scorer", "sklearn.metrics", "scipy.stats"):
        monkeypatch.setitem(sys.modules, module, None)
    task_metrics._warn_missing.cache_clear()
    assert text_scores(["a"], ["a"]) == {"exact_match": 1.0}
    assert classification_scores(["a", "b"], ["a", "a"], ["a", "b"]) == {"accuracy": 0.5, "majority": 0.5}
    assert regression_scores([1.0], [3.0]) == {"mean_squared_error": 4.0}
    assert counted_scores({"confusion": np.eye(2)}) == {"accuracy": 1.0}
    warned = capsys.readouterr().err
    assert "what sacrebleu scores and draws is left out" in warned
    assert warned.count("pip install 'flaxmill[tasks]'") == 4


def test_scores_of_label_sets_are_those_of_scikit_learn():
    from sklearn import metrics
    from sklearn.preprocessing import MultiLabelBinarizer

    random, labels = np.random.default_rng(0), ["a", "b", "c", "d"]
    draw = lambda: [[label for label in labels[:3] if random.random() < 0.4] for _ in range(40)]  # noqa: E731
    wanted, predicted = draw(), draw()
    scores = multi_label_scores(wanted, predicted, labels)
    rows = MultiLabelBinarizer(classes=labels[:3])  # the last label occurs nowhere, and counts nowhere
    truth, found = rows.fit_transform(wanted), rows.transform(predicted)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, found))
    assert scores["f1_micro"] == pytest.approx(metrics.f1_score(truth, found, average="micro"))
    assert scores["f1_macro"] == pytest.approx(metrics.f1_score(truth, found, average="macro"))


def test_label_sets_without_a_label_score_nothing():
    assert multi_label_scores([[], []], [[], []], ["a", "b"]) == {
        "accuracy": 1.0,
        "f1_micro": 0.0,
        "f1_macro": 0.0,
    }

"""The best evaluation is found, waited for, and found again after a resume."""

import json

import pytest

from flaxmill.train.best import Best, BestConfig, check_best, find_best_step


def follow(values, metric="eval_accuracy", patience=None, best=None):
    best = best or Best(BestConfig(metric=metric, patience=patience), {})
    for step, value in values.items():
        best.update(step, {metric: value})
    return best


def test_of_losses_the_lowest_and_of_others_the_highest_is_best():
    values = {10: 0.5, 20: 0.7, 30: 0.6}
    assert follow(values).step == 20
    assert follow(values, "eval_loss").step == 10


def test_the_first_of_equal_values_stays_and_what_is_not_finite_never_counts():
    assert follow({1: 0.5, 2: 0.5}).step == 1
    assert follow({1: float("nan"), 2: 0.1, 3: float("nan")}).step == 2


def test_patience_counts_evaluations_without_a_better_value():
    best = follow({1: 0.5, 2: 0.4}, patience=2)
    assert not best.is_waited_out
    assert follow({3: 0.5}, best=best).is_waited_out
    assert not follow({1: 0.5, 2: 0.4, 3: 0.6, 4: 0.6}, patience=2).is_waited_out


def test_a_resumed_run_decides_alike_although_it_evaluates_a_step_again():
    config = BestConfig(metric="eval_accuracy", patience=2)
    before = follow({1: 0.5, 2: 0.4}, patience=2)
    again = Best(config, json.loads(json.dumps(before.metadata())))
    again.update(2, {"eval_accuracy": 0.4})
    assert again.metadata() == before.metadata()
    again.update(3, {"eval_accuracy": 0.3})
    assert again.is_waited_out
    assert (again.step, again.metrics) == (1, {"eval_accuracy": 0.5})


def test_without_a_metric_nothing_is_followed():
    best = follow({1: 0.5}, metric="eval_loss", best=Best(BestConfig(), {}))
    assert (best.is_followed, best.step, best.metadata()) == (False, None, {})


@pytest.mark.parametrize("metric", [None, "eval_f1"])
def test_a_run_that_follows_something_else_now_forgets_the_best(metric):
    before = follow({1: 0.5, 2: 0.4}, patience=2)
    now = Best(BestConfig(metric=metric), before.metadata())
    assert (now.step, now.metrics) == (None, {})


def test_the_best_step_is_found_among_those_that_still_have_checkpoints():
    rows = [{"step": s, "eval_loss": v} for s, v in ((1, 3.0), (2, 1.0), (3, 2.0), (3, 0.5))]
    rows += [{"step": 9, "loss": 0.0}]
    config = BestConfig(metric="eval_loss")
    assert find_best_step(config, rows, {1, 2}) == 2
    assert find_best_step(config, rows, {1, 2, 3}) == 3
    assert find_best_step(config, rows, {9}) is None
    assert find_best_step(BestConfig(), rows, {1}) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "accuracy"}, "best.metric=accuracy is not a value of an evaluation; use eval_accuracy"),
        ({"metric": "eval_loss", "patience": 0}, "best.patience=0 must be at least 1, or None"),
        ({"patience": 3}, "best.patience=3 needs a value to watch"),
    ],
)
def test_what_cannot_be_followed_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BestConfig(**fields)


def test_a_metric_that_the_run_does_not_have_is_refused_before_it_begins():
    config = BestConfig(metric="eval_f1")
    with pytest.raises(
        ValueError, match=r"best.metric=eval_f1 is not what this run evaluates; use one of eval_"
    ):
        check_best(config, ["eval_loss", "eval_accuracy"], 10)
    with pytest.raises(ValueError, match="needs evaluations on the way; set eval_every"):
        check_best(BestConfig(metric="eval_loss"), ["eval_loss"], None)


def test_rows_that_were_changed_by_hand_count_for_nothing():
    config = BestConfig(metric="eval_loss")
    odd = [{}, {"eval_loss": 0.1}, {"step": [2], "eval_loss": 0.1}, {"step": True, "eval_loss": 0.1}]
    odd += [{"step": 3, "eval_loss": value} for value in ("0.1", {}, -(10**400), None, float("nan"))]
    assert find_best_step(config, odd, [1, 2, 3, 4]) is None
    assert find_best_step(config, [*odd, {"step": 4, "eval_loss": 0.5}], [1, 2, 3, 4]) == 4

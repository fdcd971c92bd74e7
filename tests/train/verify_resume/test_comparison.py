"""Two runs that differ anywhere are told apart, and where they differ first is named."""

from collections.abc import Iterable

import numpy as np
import pytest

from flaxmill.train.verify_resume.comparison import (
    ResumeCheck,
    Tolerances,
    compare_arrays,
    compare_arrays_within,
    compare_counters,
    compare_evaluations,
    compare_steps,
    compare_steps_within,
)
from flaxmill.train.verify_resume.report import Section, find_first

STEPS = range(4)
TOLERANCES = Tolerances(loss=1e-5, grad_norm=1e-3, parameters=1e-5, optimizer_state=1e-4)


def make_rows(steps: Iterable[int] = STEPS):
    return [
        {
            "step": step,
            "loss": 7.0 - 0.1 * step,
            "grad_norm": 1.5,
            "learning_rate": 1e-3 * step,
            "num_tokens": 100 * (step + 1),
            "batch_digest": 1000 + step,
            "key": [step, 7],
            "step_seconds": 0.1,
        }
        for step in steps
    ]


def failed(checks):
    return {check.name: check for check in checks if not check.passed}


def test_equal_rows_pass_whatever_time_they_took():
    again = [row | {"step_seconds": 9.0, "mfu": 0.5} for row in make_rows()]
    checks = compare_steps(make_rows(), again, STEPS)
    assert failed(checks) == {}
    assert {"loss", "grad_norm", "learning_rate", "num_tokens", "batch_digest", "key"} <= {
        check.name for check in checks
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", np.nextafter(np.float32(6.8), np.float32(9)).item()),
        ("loss", None),
        ("grad_norm", 1.6),
        ("learning_rate", 0.0),
        ("num_tokens", 301),
        ("batch_digest", 1003),
        ("key", [2, 8]),
    ],
)
def test_one_value_of_one_row_is_found_and_its_step_named(name, value):
    rows = make_rows()
    rows[2][name] = value
    check = failed(compare_steps(make_rows(), rows, STEPS)).pop(name)
    assert check.first_step == 2
    assert check.num_differing == 1
    assert check.first == f"step 2: {make_rows()[2][name]!r} straight, {value!r} resumed"


def test_a_zero_of_the_other_sign_is_another_number():
    straight, resumed = make_rows(), make_rows()
    straight[0]["loss"], resumed[0]["loss"] = 0.0, -0.0
    assert "loss" in failed(compare_steps(straight, resumed, STEPS))


def test_a_field_that_one_run_lacks_differs():
    rows = make_rows()
    del rows[1]["key"]
    assert failed(compare_steps(make_rows(), rows, STEPS))["key"].first == (
        "step 1: [1, 7] straight, 'absent' resumed"
    )


def test_a_field_that_both_runs_lack_is_not_taken_for_equal():
    rows = [{name: value for name, value in row.items() if name != "batch_digest"} for row in make_rows()]
    assert set(failed(compare_steps(rows, rows, STEPS))) == {"batch_digest"}


def test_a_row_written_twice_counts_twice():
    repeated = make_rows([2])
    repeated[0]["loss"] = 0.0
    checks = failed(compare_steps(make_rows(), [*make_rows(), *repeated], STEPS))
    assert set(checks) == {"loss"}
    assert checks["loss"].compared == "5 rows"


def test_missing_and_surplus_rows_are_found():
    short = failed(compare_steps(make_rows(), make_rows([0, 1, 3]), STEPS))
    assert short["steps"].first == "step 2 has no row"
    long = failed(compare_steps(make_rows(), make_rows(range(5)), STEPS))
    assert long["steps"].first == "step 4 is too many"
    # And where the straight run is the one that lacks it:
    assert failed(compare_steps(make_rows([0, 1, 2]), make_rows(), STEPS))["steps"].first_step == 3


def test_no_rows_at_all_prove_nothing():
    assert "steps" in failed(compare_steps(make_rows(), [], STEPS))
    assert "steps" in failed(compare_steps([], [], STEPS))


def test_another_mesh_may_round_losses_and_nothing_else():
    rows = make_rows()
    rows[3]["loss"] *= 1 + 9e-6
    checks = compare_steps_within(make_rows(), rows, STEPS, TOLERANCES)
    assert failed(checks) == {}
    rows[3]["loss"] *= 1 + 9e-6
    rows[1]["batch_digest"] += 1
    assert set(failed(compare_steps_within(make_rows(), rows, STEPS, TOLERANCES))) == {"loss", "batch_digest"}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_loss_that_is_no_number_on_one_mesh_alone_is_outside(value):
    rows = make_rows()
    rows[1]["loss"] = value
    checks = compare_steps_within(make_rows(), rows, STEPS, TOLERANCES)
    assert failed(checks)["loss"].first_step == 1


def test_evaluations_are_compared():
    wanted = [{"step": 4, "eval_loss": 6.5}]
    assert compare_evaluations(wanted, wanted).passed
    assert "eval_loss step 4" in compare_evaluations(wanted, [{"step": 4, "eval_loss": 6.6}]).first
    assert compare_evaluations(wanted, []).first == "0 instead of 1"


def make_arrays():
    values = {
        "params/mlp/kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "params/mlp/bias": np.ones(4, np.float32),
        "optimizer/0/mu/mlp/kernel": np.full((3, 4), 1e-3, np.float32),
        "optimizer/0/count": np.int32(20),
        "step": np.int32(20),
    }
    return {name: np.asarray(value) for name, value in values.items()}


def described(values):
    return {
        name: {"dtype": str(value.dtype), "shape": list(value.shape), "digest": hash(value.tobytes())}
        for name, value in values.items()
    }


def compare(straight, resumed, tolerances=None):
    sides = (described(straight), described(resumed), straight.__getitem__, resumed.__getitem__)
    if tolerances is None:
        return compare_arrays(*sides)
    return compare_arrays_within(*sides, tolerances)


def test_equal_arrays_pass_and_are_not_read():
    arrays = described(make_arrays())
    checks = compare_arrays(arrays, arrays, lambda name: pytest.fail(name), lambda name: pytest.fail(name))
    assert failed(checks) == {}
    assert [check.compared for check in checks] == [
        "2 arrays, 16 elements",
        "2 arrays, 13 elements",
        "1 arrays, 1 elements",
    ]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("params/mlp/kernel", "parameters"),
        ("optimizer/0/mu/mlp/kernel", "optimizer state"),
        ("optimizer/0/count", "optimizer state"),
        ("step", "step and skips"),
    ],
)
def test_one_element_of_one_array_is_found_and_measured(name, group):
    changed = make_arrays()
    changed[name].flat[-1] += 2
    check = failed(compare(make_arrays(), changed))[group]
    assert check.first == f"{name}: 1 of {changed[name].size} elements differ, by at most 2"


def test_missing_surplus_reshaped_and_retyped_arrays_are_found():
    whole = make_arrays()
    less = {name: value for name, value in whole.items() if name != "params/mlp/bias"}
    for tolerances in (None, TOLERANCES):
        missing = failed(compare(whole, less, tolerances))["parameters"].first
        assert missing == "params/mlp/bias: absent from the resumed run"
        surplus = failed(compare(less, whole, tolerances))["parameters"].first
        assert surplus == "params/mlp/bias: absent from the straight run"
        reshaped = whole | {"params/mlp/kernel": whole["params/mlp/kernel"].reshape(4, 3)}
        assert failed(compare(whole, reshaped, tolerances))["parameters"].first == (
            "params/mlp/kernel: float32[3, 4] straight, float32[4, 3] resumed"
        )
        retyped = whole | {"params/mlp/bias": whole["params/mlp/bias"].astype(np.float16)}
        assert "float16[4] resumed" in failed(compare(whole, retyped, tolerances))["parameters"].first


def test_another_mesh_may_round_arrays_but_not_counters():
    rounded = make_arrays()
    rounded["params/mlp/kernel"] *= np.float32(1 + 1e-6)
    checks = compare(make_arrays(), rounded, TOLERANCES)
    assert failed(checks) == {}
    assert checks[0].difference is not None
    assert 0 < checks[0].difference < 1e-5
    rounded["params/mlp/kernel"] *= np.float32(1 + 1e-4)
    rounded["optimizer/0/count"] += 1
    assert set(failed(compare(make_arrays(), rounded, TOLERANCES))) == {"parameters", "optimizer state"}


def test_arrays_that_are_no_numbers_on_one_mesh_alone_are_outside():
    broken = make_arrays()
    broken["params/mlp/bias"][0] = np.nan
    assert set(failed(compare(make_arrays(), broken, TOLERANCES))) == {"parameters"}


def test_counters_are_compared_but_not_when_and_where():
    counters = {"num_tokens": 400, "losses": [6.5], "saved_at": "noon", "mesh": {"data": 1}}
    elsewhere = counters | {"saved_at": "later", "mesh": {"data": 2}}
    assert compare_counters(counters, elsewhere).passed
    other = elsewhere | {"num_tokens": 401}
    assert compare_counters(counters, other).first == "num_tokens: 400 straight, 401 resumed"
    assert not compare_counters(counters, elsewhere | {"losses": [6.6]}).passed
    assert compare_counters(counters, elsewhere | {"losses": [6.6]}, exact=False).passed


def test_the_verdict_names_the_cause_before_its_effects():
    fine = Section("until the kill", [ResumeCheck("loss", "4 rows", True)])
    late = ResumeCheck("loss", "4 rows", False, "step 7: ...", 7)
    cause = ResumeCheck("batch_digest", "4 rows", False, "step 6: ...", 6)
    arrays = ResumeCheck("parameters", "2 arrays", False, "params/mlp/kernel: ...")
    section, check = find_first([fine, Section("continued", [late, cause, arrays])])
    assert (section.title, check) == ("continued", cause)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.optimizer.schedule import describe_jump, make_schedule

PEAK = 3e-3
SHAPES = ("linear", "cosine", "wsd", "constant", "bert")
SMOOTH = ("linear", "cosine", "wsd", "constant")


def rates(steps: int, **fields) -> np.ndarray:
    """Learning rates of steps 0 to `steps`, the last of which is never taken."""
    schedule = make_schedule(OptimizerConfig(learning_rate=PEAK, **fields), steps)
    return np.asarray(jax.vmap(schedule)(jnp.arange(steps + 1)))


@pytest.mark.parametrize("schedule", SMOOTH)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 997])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.5, 1.0])
def test_peak_is_reached_and_no_step_is_wasted(schedule, steps, warmup_fraction):
    found = rates(steps, schedule=schedule, warmup_fraction=warmup_fraction, decay_fraction=0.0)
    assert found[:-1].max() == np.float32(PEAK)
    assert found[:-1].min() > 0
    assert found.max() <= np.float32(PEAK)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
def test_final_value_is_the_fraction_of_the_peak(schedule, final_fraction):
    found = rates(200, schedule=schedule, final_fraction=final_fraction)
    np.testing.assert_allclose(found[-1], final_fraction * PEAK, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", SMOOTH)
def test_schedule_is_continuous(schedule):
    steps = 1000
    found = rates(steps, schedule=schedule, warmup_fraction=0.2, decay_fraction=0.2)
    # Warm-up and wsd's decay rise and fall over 200 steps, nothing is steeper.
    assert np.abs(np.diff(found)).max() <= 1.01 * PEAK / 200


@pytest.mark.parametrize("schedule", SMOOTH)
def test_rate_rises_then_never_rises_again(schedule):
    found = rates(300, schedule=schedule)
    top = int(found.argmax())
    assert top == 30
    assert (np.diff(found[: top + 1]) > 0).all()
    assert (np.diff(found[top:]) <= 0).all()


def test_wsd_is_flat_between_warmup_and_decay():
    found = rates(100, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2)
    assert (found[10:81] == np.float32(PEAK)).all()
    assert found[81] < found[80]


def test_bert_follows_the_original():
    found = rates(1000, schedule="bert", warmup_fraction=0.1)
    assert found[0] == 0
    np.testing.assert_allclose(found[50], PEAK * 50 / 100, rtol=1e-6)
    np.testing.assert_allclose(found[100], PEAK * (1 - 100 / 1000), rtol=1e-6)
    np.testing.assert_allclose(found[999], PEAK / 1000, rtol=1e-3)


def test_bert_of_one_step_is_not_zero():
    assert rates(1, schedule="bert")[0] == np.float32(PEAK)


@pytest.mark.parametrize("schedule", SHAPES)
def test_traced_and_plain_steps_give_the_same_float32(schedule):
    function = make_schedule(OptimizerConfig(schedule=schedule), 100)
    for step in (0, 7, 55, 99, 100, 5000):
        plain, traced = function(step), jax.jit(function)(jnp.int32(step))
        assert plain.dtype == traced.dtype == jnp.float32
        assert plain.shape == ()
        # XLA may fuse a multiplication and an addition; one rounding of the peak is allowed for.
        np.testing.assert_allclose(plain, traced, rtol=2e-6, atol=1e-10)


def test_a_rate_that_jumps_as_a_run_grows_is_said():
    config = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.1, schedule="linear")
    assert describe_jump(config, 100, 100, 100) is None
    assert describe_jump(config, 100, 110, 50) is None
    said = describe_jump(config, 100, 400, 99)
    assert said is not None
    assert said.endswith("its schedule ended at step 100, and now ends at step 400")
    assert describe_jump(OptimizerConfig(schedule="constant"), 100, 400, 100) is None

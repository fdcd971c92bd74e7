"""The two published runs, beside our ceilings of them and beside the usual arithmetic."""

import pytest

from flaxmill.model.functional import count_params
from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan.cost import LLAMA2_70B, LLAMA3_8B, published_runs


def test_published_runs_stay_below_their_ceilings_by_these_shares():
    large, small = published_runs()
    assert large.share == pytest.approx(0.78, abs=0.01)
    assert small.share == pytest.approx(0.37, abs=0.01)


def test_the_usual_arithmetic_gives_somewhat_larger_shares():
    """6 FLOPs a parameter and token, attention in full, a third more for full rematerialisation.

    We count no FLOPs for looking tokens up, the half of causal attention that kernels compute, and what is
    really computed again. So our ceilings are higher.
    """
    assert pytest.approx(0.87, abs=0.005) == 0.65 / (3 / 4)
    a_token = 6 * count_params(LLAMA3_8B) + 12 * 32 * 4096 * 8192
    assert 6667 * a_token / CHIPS["h100"].peak_flops == pytest.approx(0.41, abs=0.005)
    large, small = published_runs()
    assert 0.8 < large.share / 0.87 < 1
    assert 0.8 < small.share / 0.41 < 1


def test_the_published_models_are_those():
    assert count_params(LLAMA2_70B) == 68_976_648_192
    assert count_params(LLAMA3_8B) == 8_030_261_248

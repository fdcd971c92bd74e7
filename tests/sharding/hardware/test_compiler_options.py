"""Training and planning read the same table."""

import pytest

from flaxmill.sharding.hardware.compiler_options import compiler_options


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
def test_every_platform_has_options_that_a_caller_may_change(platform):
    given = compiler_options(platform)
    given["another"] = True
    assert "another" not in compiler_options(platform)


def test_tpu_gathers_are_not_done_piece_by_piece():
    assert compiler_options("tpu") == {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}

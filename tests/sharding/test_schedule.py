import pytest

from flaxmill.sharding.schedule import Pipeline, microbatches


@pytest.mark.parametrize(
    ("num_rows", "num_stages", "expected"),
    [(8, 4, 8), (32, 4, 8), (12, 4, 6), (4, 4, 4), (7, 2, 1), (30, 8, 15), (0, 4, 0)],
)
def test_a_group_s_rows_divide_into_up_to_twice_as_many_parts_as_stages(num_rows, num_stages, expected):
    assert microbatches(num_rows, num_stages) == expected


def test_stages_wait_while_the_pipeline_fills_and_empties():
    assert Pipeline(4, 8).ticks == 11
    assert Pipeline(4, 8).bubble == pytest.approx(3 / 11)
    assert Pipeline(4, 8, 2).ticks == 19
    assert Pipeline(4, 8, 2).bubble == pytest.approx(3 / 19)
    assert Pipeline().bubble == 0

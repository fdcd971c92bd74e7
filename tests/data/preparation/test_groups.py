"""Groups of sources are shared among machines: each group is in one share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.files.sources import InputSource, InputSources
from flaxmill.data.preparation.groups import Group, MachineShard, _shard_indices


@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=30), count=st.integers(1, 9))
def test_each_group_is_in_one_shard_and_shards_are_neighbours(sizes, count):
    indices = _shard_indices(
        [Group(n, (0, n, n + 1), None, _sources_of(size)) for n, size in enumerate(sizes)], count
    )
    assert indices == sorted(indices)
    assert set(indices) <= set(range(1, count + 1))


def _sources_of(num_bytes):
    return InputSources("x", (InputSource("x", [], num_bytes, "x", lambda: iter(())),))


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "1/3/5", "-1/3", "1/0"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="use 1/8 for the first of eight"):
        MachineShard.parse(text)

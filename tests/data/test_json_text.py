"""Whatever is written as JSON can be read by every parser, and gives the same values."""

import datetime
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.json_text import dump_json

TEXTS = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs included
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=8,
)


def read(text):
    """Parses strictly: only UTF-8, and no constants that JSON lacks."""
    assert "\n" not in text
    return json.loads(text.encode().decode(), parse_constant=lambda name: pytest.fail(name))


def finite(value):
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(VALUES)
def test_what_is_written_reads_as_it_was_with_null_for_what_is_not_finite(value):
    assert read(dump_json(value)) == finite(value)


def test_other_values_are_spelled():
    day = datetime.date(2024, 2, 29)
    assert read(dump_json({"day": day, "raw": b"x", "odd": [math.nan, day]})) == {
        "day": "2024-02-29",
        "raw": "b'x'",
        "odd": [None, "2024-02-29"],
    }


def test_characters_stay_readable():
    assert dump_json({"text": "Müller 漢"}) == '{"text": "Müller 漢"}'


def test_deep_values_are_written():
    value = math.nan
    for _ in range(200):
        value = [value]
    assert read(dump_json(value))

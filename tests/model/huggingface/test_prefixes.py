"""Tensor names with the prefixes of torch's wrappers are read; any other prefix of all names is named."""

import logging

import numpy as np
import pytest

from flaxmill.model.huggingface.prefixes import unknown_prefix, without_wrappers

NAMES = ("wte.weight", "h.0.ln_1.weight", "h.1.ln_1.weight")


def arrays(names):
    return {name: np.full(1, number) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}",
        "_orig_mod.{}",
        "module.{}",
        "module.module.{}",
        "_orig_mod.module.{}",
        "module._orig_mod.{}",
    ],
)
def test_wrappers_are_taken_off(wrapped):
    found = without_wrappers(arrays(wrapped.format(name) for name in NAMES), f"file of {wrapped}")
    assert found == arrays(NAMES)


def test_parts_may_be_compiled_by_themselves():
    names = ("wte.weight", "h.0._orig_mod.ln_1.weight", "h._orig_mod.1.ln_1.weight")
    assert without_wrappers(arrays(names), "parts") == arrays(NAMES)


def test_a_prefix_of_some_names_alone_is_a_part_of_their_names():
    names = ("module.wte.weight", "h.0.ln_1.weight")
    assert without_wrappers(arrays(names), "some") == arrays(names)


def test_what_was_taken_off_is_said_once_a_file(caplog):
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        for _ in range(2):
            without_wrappers(arrays(f"_orig_mod.{name}" for name in NAMES), "said once")
            without_wrappers(arrays(NAMES), "said never")
    assert [record.getMessage() for record in caplog.records] == [
        "said once: tensors are read without the _orig_mod. that torch.compile puts before their names"
    ]


def test_names_that_then_are_the_same_are_refused():
    with pytest.raises(ValueError, match="both h without the prefixes of torch's wrappers"):
        without_wrappers(arrays(("_orig_mod.h", "h")), "twice")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        ([f"student.{name}" for name in NAMES], "student."),
        ([f"a.b.{name}" for name in NAMES], "a.b."),
        ([*(f"student.{name}" for name in NAMES), "student.loss"], "student."),
        ([f"student.{name}" for name in NAMES[1:]], "student."),
        ([*(f"student.{name}" for name in NAMES), "loss"], None),
        ([f"student.{name}.x" for name in NAMES], None),
        (NAMES, None),
        ((), None),
    ],
)
def test_the_prefix_that_hides_known_names_is_found(names, prefix):
    found = unknown_prefix(names, NAMES)
    # Two names share more than the prefix, and without all of that none is known: None is right too.
    assert found == prefix or (len(names) == 2 and found is None)

"""A checkpoint's manifest is whole and well-formed, or its defect is named."""

from typing import Any

import jax.numpy as jnp
import pytest

from flaxmill.train.checkpoint.manifest import DefectError, checksum, make_manifest, read_manifest
from flaxmill.train.failures import CheckpointError


def sealed(content: Any) -> dict[str, Any]:
    return {"flaxmill": content, "checksum": checksum(content)}


def whole() -> dict[str, Any]:
    return make_manifest({("params", "a"): jnp.ones(3)}, {"num_tokens": 5})["flaxmill"]


def test_what_was_made_is_read():
    assert read_manifest(sealed(whole()), "5") == whole()


@pytest.mark.parametrize(
    ("stored", "defect"),
    [
        ([], "its manifest is missing"),
        ({}, "its manifest is missing"),
        ({"flaxmill": {}, "checksum": 1}, "does not match its checksum"),
        (sealed(5), "has no format"),
        (sealed({"format": "1"}), "has no format"),
        (sealed({"format": 1}), "has no arrays"),
        (sealed(whole() | {"arrays": []}), "has no arrays"),
        (sealed(whole() | {"metadata": None}), "has no metadata"),
        (sealed(whole() | {"metadata": {"num_tokens": "5"}}), "has no metadata num_tokens"),
        (sealed(whole() | {"metadata": {"best": []}}), "has no metadata best"),
        (sealed(whole() | {"arrays": {"params/a": []}}), "has no params/a"),
        (
            sealed(whole() | {"arrays": {"params/a": {"dtype": "x", "digest": 1, "shape": [-1]}}}),
            "has no params/a",
        ),
        (sealed(whole() | {"arrays": {"../a": whole()["arrays"]["params/a"]}}), "has no ../a"),
    ],
)
def test_a_manifest_of_another_form_is_a_defect(stored, defect):
    with pytest.raises(DefectError, match=defect):
        read_manifest(stored, "5")


def test_a_manifest_that_nests_deeply_is_a_defect():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DefectError, match="does not match its checksum"):
        read_manifest({"flaxmill": deep, "checksum": 0}, "5")


def test_a_later_format_is_refused():
    with pytest.raises(CheckpointError, match="5 has format 2; this version of flaxmill reads 1"):
        read_manifest(sealed({"format": 2}), "5")

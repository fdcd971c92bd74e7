"""Absent devices have names; a name that is none is refused in one line that says which would do."""

import importlib.metadata
import importlib.util

import jax
import pytest

from flaxmill.sharding.hardware import topologies
from flaxmill.sharding.hardware.topologies import find_topology


def test_cpu_devices_are_simulated_ones():
    topology = find_topology("cpu:4")
    assert topology.devices == jax.devices()[:4]
    assert (topology.chip, topology.num_slices, topology.description) == (None, 1, "4 CPU devices")


def test_slices_of_cpu_devices_are_groups_of_them():
    topology = find_topology("cpu:4", num_slices=2)
    assert len(topology.devices) == 8
    assert (topology.link_domain, topology.description) == (4, "2 slices, each 4 CPU devices")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5z:4x4x4", r"'v5z' is no chip that is known; did you mean v5\w:4x4(x4)?\? use one of v4, v5e, "),
        ("H100:1x8", r"did you mean h100:1x8\?"),
        ("v5q:4x4x4", r"did you mean v5p:4x4x4\?|did you mean v5e:4x4\?"),
        ("TPU", r"'TPU' is no chip that is known"),
        ("v5p", r"'' is not a size such as 4x4x4"),
        ("v5p:4y4", r"'4y4' is not a size such as 4x4x4"),
        ("cpu:0", r"'0' is not a size such as 8"),
        ("cpu:2x4", r"cpu takes a number of devices, as in cpu:8"),
        ("h100:8", r"h100 takes hosts x GPUs of a host, as in h100:1x8"),
        ("v5p:4x4", r"v5p takes the 3 sizes of a slice, as in v5p:4x4x4"),
        ("v5e:4x4x4", r"v5e takes the 2 sizes of a slice, as in v5e:4x4"),
        ("v5e:32x32", r"has 1,024 chips, and a slice of v5e at most 256; use a smaller one, and --slices"),
        ("v5p:3x3x3", r"a host has 2 x 2 chips, so that the first two sizes are even; use one such as v5p:"),
    ],
)
def test_a_bad_name_is_refused_with_what_would_do(name, said):
    with pytest.raises(ValueError, match=rf"^topology={name}.*({said})") as caught:
        find_topology(name)
    assert "\n" not in str(caught.value)


def test_no_slices_are_refused():
    with pytest.raises(ValueError, match="slices=0 must be at least 1"):
        find_topology("cpu:4", num_slices=0)


def test_more_cpu_devices_than_jax_started_with_are_refused():
    assert len(jax.devices()) == 8
    with pytest.raises(ValueError, match=r"needs 64 devices, and JAX has started with 8; set JAX_NUM_CPU_"):
        find_topology("cpu:64")


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        topologies.importlib.util, "find_spec", lambda name: None if name in modules else find(name)
    )


@pytest.mark.parametrize(
    ("name", "what"), [("v5e:2x2", "TPU compiler, libtpu,"), ("h100:1x8", "GPU compiler,")]
)
def test_a_missing_compiler_says_what_installs_it(name, what, monkeypatch):
    without(monkeypatch, "libtpu", "jax_cuda13_plugin", "jax_cuda12_plugin")
    with pytest.raises(
        ValueError, match=rf"^topology={name} needs the {what} which is not installed; pip install"
    ):
        find_topology(name)


def test_a_libtpu_of_another_version_is_named_with_the_right_one(monkeypatch):
    wanted = next(line for line in importlib.metadata.requires("jax") or () if line.startswith("libtpu"))
    version = wanted.partition(";")[0].partition("==")[2].strip()
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(
        topologies.importlib.metadata, "version", lambda name: "0.0.1" if name == "libtpu" else "0.10.2"
    )
    said = (
        rf"^libtpu==0\.0\.1 is installed, and jax==0\.10\.2 needs libtpu=={version.replace('*', '.*')}; pip"
    )
    with pytest.raises(ValueError, match=said):
        find_topology("v5e:2x2")


@pytest.mark.parametrize(
    ("found", "wanted", "is_right"),
    [
        ("0.0.42.1", "0.0.42.*", True),
        ("0.0.42", "0.0.42.*", True),
        ("0.0.420.1", "0.0.42.*", False),
        ("0.0.41.3", "0.0.42.*", False),
        ("0.0.42", "0.0.42", True),
        ("0.0.42.1", "0.0.42", False),
    ],
)
def test_a_version_fits_a_stem(found, wanted, is_right):
    assert topologies._is_version(found, wanted) == is_right

"""The table of accelerators is whole, and a device finds its own row."""

import dataclasses

import pytest

from flaxmill.sharding.hardware.chips import CHIPS, GB, GIB, Chip, chip_of_kind


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_device_finds_its_row_by_its_kind(kind, name):
    chip = chip_of_kind(kind)
    assert chip is not None
    assert chip.name == name


def test_a_cpu_and_a_stranger_have_no_row():
    assert chip_of_kind("cpu") is None
    assert chip_of_kind("NVIDIA GeForce RTX 4090") is None


@pytest.mark.parametrize("chip", CHIPS.values(), ids=list(CHIPS))
def test_a_row_has_a_source_and_marks_only_figures_that_it_has(chip):
    assert chip.source.startswith("https://")
    assert {*chip.unchecked} <= {field.name for field in dataclasses.fields(Chip)}
    assert isinstance(chip.memory_bytes, int)
    # More FLOPs than bytes, more memory than wires, more wires than network: a slip of a unit would show.
    rates = chip.peak_flops, chip.memory_bandwidth, chip.link_bandwidth, chip.network_bandwidth
    assert list(rates) == sorted(rates, reverse=True)
    assert 100 < chip.peak_flops / chip.memory_bandwidth < 700


def test_a_device_of_tpu7x_is_half_a_chip():
    half = CHIPS["tpu7x"]
    assert half.peak_flops == 2307e12 / 2
    assert 94 * GIB < half.memory_bytes < 96 * GIB
    assert half.link_bandwidth == 600 * GB

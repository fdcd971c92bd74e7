"""Every GPU of the chips table can be described to XLA, with the table's own memory."""

import re

import pytest

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.sharding.hardware.gpu_targets import PRODUCTS, target_config

GPUS = [name for name, chip in CHIPS.items() if chip.platform == "gpu"]


def test_every_gpu_has_a_target():
    assert sorted(PRODUCTS) == sorted(GPUS)


@pytest.mark.parametrize("name", GPUS)
def test_a_target_states_the_chips_memory_and_its_own_capability(name):
    text = target_config(CHIPS[name])
    assert f"device_memory_size: {CHIPS[name].memory_bytes}\n" in text
    assert f"memory_bandwidth: {int(CHIPS[name].memory_bandwidth)}\n" in text
    major = {"a100": 8, "h100": 9, "h200": 9, "b200": 10}[name]
    assert re.search(rf"cuda_compute_capability \{{ major: {major} minor: 0 \}}", text)


@pytest.mark.parametrize("name", GPUS)
def test_unchecked_figures_are_figures_of_the_product(name):
    product = PRODUCTS[name]
    assert all(isinstance(getattr(product, field), int | float) for field in product.unchecked)

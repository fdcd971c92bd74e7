"""A collective that the design does not want is named with its size; one that it wants is not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import planned_runs
import pytest

from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.plan.findings import find_warnings

SHAPE = {"data": 2, "fsdp": 4, "tensor": 1}


def mesh_of(platform: str = "tpu", **sizes: int) -> Any:
    shape = SHAPE | sizes
    num_devices = int(np.prod(list(shape.values())))
    devices = np.array([SimpleNamespace(platform=platform)] * num_devices, object)
    return SimpleNamespace(shape=shape, size=num_devices, devices=devices)


def collective(kind: str, shape: tuple[int, ...], dtype: str = "bf16", **changes: Any) -> Collective:
    num_bytes = int(np.prod(shape)) * {"bf16": 2, "f32": 4}[dtype]
    plain = Collective(
        kind=kind,
        dtype=dtype,
        shape=shape,
        num_bytes=num_bytes,
        wire_bytes=num_bytes,
        times=6,
        axes=("fsdp",),
        across_slices=False,
        inside_layers=True,
        group=4,
        operation="jit(train_step)/mlp_block/dot_general",
        source_name="all-gather.1",
    )
    return plain._replace(**changes)


def warnings_of(*collectives: Collective, **changes: Any) -> list[str]:
    experiment = planned_runs.small_llama(dtype="bfloat16")
    return find_warnings(collectives, experiment, mesh_of(**changes))


def test_what_the_design_sends_needs_no_warning():
    designed = [
        collective("all-gather", (256, 704)),
        collective("reduce-scatter", (256, 704), "f32"),
        collective("all-gather", (2048, 256), inside_layers=False),
        collective("all-reduce", (64, 704), "f32", axes=("data",)),
        collective("all-reduce", (1,), "f32", axes=("data", "fsdp")),
        collective("all-reduce", (6, 256), "f32"),  # of norms, which are not split
        collective("send", (64, 704), "f32", axes=("data",), across_slices=True),
        collective("all-reduce", (64, 256, 256), axes=("tensor",)),
    ]
    assert warnings_of(*designed) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (collective("all-reduce", (256, 704), is_padded=True), "sums of padded arrays, which send twice"),
        (collective("all-reduce", (2048, 256), "f32"), "summed whole on every device"),
        (collective("all-gather", (2048, 256), "f32"), "gathered in float32 and cast to bfloat16 afterwards"),
        (collective("all-gather", (6, 256, 704)), "gathered for all layers at once"),
    ],
)
def test_what_it_does_not_want_is_said_with_the_largest(found, said):
    smaller = found._replace(num_bytes=found.num_bytes - 1, operation="another")
    (line,) = warnings_of(smaller, found)
    assert said in line
    assert f"12 runs of {found.kind} a step over fsdp" in line
    assert f"{found.dtype}{list(found.shape)} of jit(train_step)/mlp_block/dot_general" in line
    assert "\n" not in line


def test_one_layers_weight_as_large_as_a_stack_of_smaller_ones_is_no_stack():
    """With four layers the query's kernel has as many numbers as the keys' of all layers."""
    experiment = planned_runs.small_llama(
        dtype="bfloat16", num_layers=4, num_heads=16, num_kv_heads=4, head_dim=32
    )
    query, keys = (collective("all-gather", (1, 1, *shape)) for shape in ((256, 16, 32), (4, 256, 4, 32)))
    assert query.num_bytes == keys.num_bytes
    assert find_warnings([query], experiment, mesh_of()) == []
    (line,) = find_warnings([query, keys], experiment, mesh_of())
    assert "bf16[1, 1, 4, 256, 4, 32]" in line
    assert "6 runs of all-gather" in line


def test_float32_gathers_of_a_float32_model_are_wanted():
    experiment = planned_runs.small_llama(dtype="float32")
    assert find_warnings([collective("all-gather", (256, 704), "f32")], experiment, mesh_of()) == []


def test_a_storm_of_small_permutes_is_counted():
    permute = collective("collective-permute", (48, 704), group=2)
    (line,) = warnings_of(*[permute._replace(times=15)] * 7)
    assert line.startswith("105 small permutes a step, 66.0 KiB each on average")
    assert warnings_of(*[permute._replace(times=6)] * 7) == []

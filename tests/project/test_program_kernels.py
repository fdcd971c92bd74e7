"""What benchmarks/sides/program_kernels.py and step_programs.py read of a compiled program."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

PROGRAM = """HloModule step, is_scheduled=true

%multiplied (x.1: bf16[4,1,8], w.1: bf16[8,3,5]) -> bf16[4,3,5] {
  %x.1 = bf16[4,1,8]{2,1,0} parameter(0)
  %w.1 = bf16[8,3,5]{2,1,0} parameter(1)
  ROOT %c = bf16[4,3,5] convolution(%x.1, %w.1), window={size=3 pad=2_2}, dim_labels=b0f_i0o->b0f
}

%saved (stack.1: bf16[12,4,3,5], i.1: s32[], y.1: bf16[4,3,5]) -> bf16[12,4,3,5] {
  %stack.1 = bf16[12,4,3,5]{3,2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %y.1 = bf16[4,3,5]{2,1,0} parameter(2)
  %y.2 = bf16[1,4,3,5]{3,2,1,0} bitcast(%y.1)
  ROOT %u = bf16[12,4,3,5]{3,2,1,0} dynamic-update-slice(%stack.1, %y.2, %i.1, %i.1, %i.1, /*index=5*/%i.1)
}

%normed (y.3: bf16[4,3,5]) -> f32[4] {
  %y.3 = bf16[4,3,5]{2,1,0} parameter(0)
  %wide = f32[4,3,5]{2,1,0} convert(%y.3)
  %square = f32[4,3,5]{2,1,0} multiply(%wide, %wide)
  %zero = f32[] constant(0)
  ROOT %sum = f32[4]{0} reduce(%square, %zero), dimensions={1,2}, to_apply=%add
}

%picked (y.4: bf16[4,3,5], i.2: s32[4,1]) -> f32[4] {
  %y.4 = bf16[4,3,5]{2,1,0} parameter(0)
  %i.2 = s32[4,1]{1,0} parameter(1)
  %wide.2 = f32[4,3,5]{2,1,0} convert(%y.4)
  ROOT %g = f32[4]{0} gather(%wide.2, %i.2), offset_dims={}
}

%body (state.1: (s32[], bf16[12,4,3,5], bf16[4,1,8], bf16[8,3,5])) -> (s32[], bf16[12,4,3,5]) {
  %state.1 = (s32[], bf16[12,4,3,5]{3,2,1,0}, bf16[4,1,8]{2,1,0}, bf16[8,3,5]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %stack = bf16[12,4,3,5]{3,2,1,0} get-tuple-element(%state.1), index=1
  %x = bf16[4,1,8]{2,1,0} get-tuple-element(%state.1), index=2
  %w = bf16[8,3,5]{2,1,0} get-tuple-element(%state.1), index=3
  %y = bf16[4,3,5]{2,1,0} fusion(%x, %w), calls=%multiplied, backend_config={"estimated_cycles":"77"}
  %stacked = bf16[12,4,3,5]{3,2,1,0} fusion(%stack, %i, %y), kind=kLoop, calls=%saved
  %other = bf16[4,3,5]{0,2,1} copy(%y)
  %sums = f32[4]{0} fusion(%y), kind=kLoop, calls=%normed, metadata={op_name="jit(train_step)/a/reduce_sum"}
  %again = f32[4]{0} fusion(%y), kind=kLoop, calls=%normed, metadata={op_name="jit(train_step)/b/reduce_sum"}
  %places = s32[4,1]{1,0} custom-call(%i), custom_call_target="Places"
  %one = f32[4]{0} fusion(%y, %places), kind=kLoop, calls=%picked
  ROOT %out = (s32[], bf16[12,4,3,5]{3,2,1,0}) tuple(%i, %stacked)
}

%condition (state.2: (s32[], bf16[12,4,3,5])) -> pred[] {
  %state.2 = (s32[], bf16[12,4,3,5]{3,2,1,0}) parameter(0)
  %i.3 = s32[] get-tuple-element(%state.2), index=0
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i.3, %limit), direction=LT
}

ENTRY %main (start: (s32[], bf16[12,4,3,5]), p: f32[8,16], q: f32[16,32]) -> f32[8,32] {
  %start = (s32[], bf16[12,4,3,5]{3,2,1,0}) parameter(0)
  %p = f32[8,16]{1,0} parameter(1)
  %q = f32[16,32]{1,0} parameter(2)
  %loop = (s32[], bf16[12,4,3,5]{3,2,1,0}) while(%start), condition=%condition, body=%body
  ROOT %dot = f32[8,32]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


@pytest.fixture(scope="module")
def benchmarks():
    """Both modules, by name."""
    names = ("sides.program_kernels", "step_programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield {name.removeprefix("sides."): importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def kernels(benchmarks):
    return {kernel.name: kernel for kernel in benchmarks["program_kernels"].find_kernels(PROGRAM)}


def test_kernels_are_told_apart_and_run_as_often_as_their_loop(kernels):
    kinds = {name: (kernel.kind, kernel.times) for name, kernel in kernels.items()}
    assert kinds == {
        "y": ("products", 12),
        "stacked": ("stacks", 12),
        "other": ("copies", 12),
        "sums": ("pointwise", 12),
        "again": ("pointwise", 12),
        "places": ("pointwise", 12),
        "one": ("pointwise", 12),
        "dot": ("products", 1),
    }


def test_products_are_counted_without_padding(kernels):
    assert kernels["dot"].product_flops == 2 * 8 * 16 * 32
    assert kernels["y"].product_flops == 2 * 4 * 8 * (
        3 * 5
    )  # a head's width as a window: no more than a product
    assert kernels["y"].cycles == 77
    assert kernels["sums"].product_flops == 0
    assert kernels["sums"].other_flops == 2 * 4 * 3 * 5


def test_bytes_are_those_of_slices_where_only_slices_are_touched(kernels):
    array = 2 * 4 * 3 * 5
    assert kernels["stacked"].written == array
    assert kernels["stacked"].read == {"stack": 0, "i": 4, "y": array}
    assert kernels["one"].read == {"y": 4 * 4, "places": 4 * 4}
    assert kernels["other"].num_bytes == 2 * array


def test_an_array_that_pointwise_kernels_read_again_is_listed(benchmarks, kernels, monkeypatch):
    monkeypatch.setattr(benchmarks["step_programs"], "LARGE", 100)
    (line,) = benchmarks["step_programs"].repeated_reads([kernels["sums"], kernels["again"]])
    assert line.endswith("GB read again: y, 2 kernels: a/reduce_sum, b/reduce_sum")


def test_time_is_the_compilers_or_the_larger_of_arithmetic_and_bytes(benchmarks, kernels):
    chips = importlib.import_module("flaxmill.sharding.hardware.chips").CHIPS
    seconds = benchmarks["step_programs"].seconds
    assert seconds(kernels["y"], chips["v5e"]) == 77 / 1.5e9
    assert seconds(kernels["dot"], chips["h100"]) == 4 * (8 * 16 + 16 * 32 + 8 * 32) / 3350e9

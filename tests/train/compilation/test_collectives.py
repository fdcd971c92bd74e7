"""Each form in which XLA writes a collective is counted once, as what it does."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flaxmill.train.compilation.collectives import Collective, find_collectives

MIB = 2**20
GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true"


def mesh_of(num_slices: int = 1) -> Any:
    """Two copies of four shards, whose copies may be in slices of their own."""
    shape = {"data": 2, "fsdp": 4, "tensor": 1}
    devices = [SimpleNamespace(slice_index=i * num_slices // 8, platform="tpu") for i in range(8)]
    return SimpleNamespace(shape=shape, size=8, devices=np.array(devices).reshape(2, 4, 1))


def program(*lines: str, computations: str = "") -> str:
    body = "".join(f"  {line}\n" for line in lines)
    parameters = "  %x = bf16[256,1024]{1,0} parameter(0)\n  %w = f32[1024,1024]{1,0} parameter(1)\n"
    return (
        f"HloModule m\n\n{computations}\nENTRY %main (x: bf16[256,1024]) -> f32[] {{\n{parameters}{body}}}\n"
    )


def only(*lines: str, computations: str = "", num_slices: int = 1) -> Collective:
    (found,) = find_collectives(program(*lines, computations=computations), mesh_of(num_slices))
    return found


def looped(name: str, *lines: str, times: int = 3) -> str:
    """A loop's body and condition."""
    body = "".join(f"  {line}\n" for line in lines)
    return (
        f"%{name} (x: bf16[256,1024]) -> bf16[256,1024] {{\n  %x = bf16[256,1024]{{1,0}} parameter(0)\n"
        '  %w = f32[1024,1024]{1,0} parameter(1), metadata={op_name="a/mlp_block/b"}\n'
        f"{body}}}\n\n"
    )


def run_loop(name: str, times: int = 3) -> str:
    return (
        f"%loop.{name} = bf16[256,1024] while(%x), condition=%c, body=%{name}, "
        f'backend_config={{"known_trip_count":{{"n":"{times}"}}}}'
    )


@pytest.mark.parametrize(
    ("line", "kind", "num_bytes", "wire"),
    [
        ("%g = bf16[1024,1024] all-gather(%x), GROUPS, dimensions={0}", "all-gather", 2, 1.5),
        ("%g = (bf16[256,1024], bf16[1024,1024]) all-gather-start(%x), GROUPS", "all-gather", 2, 1.5),
        (
            "%g = ((bf16[256,1024], s4[8]), (bf16[1024,1024], s4[32])) all-gather-start(%x, %y), GROUPS",
            *("all-gather", 2 + 16 / MIB, 1.5 + 12 / MIB),
        ),
        (
            "%g = f32[256,1024] reduce-scatter(%w), GROUPS, dimensions={0}, to_apply=%a",
            "reduce-scatter",
            4,
            3,
        ),
        ("%g = ((f32[1024,1024]), f32[256,1024]) reduce-scatter-start(%w), GROUPS", "reduce-scatter", 4, 3),
        ("%g = f32[1024,1024] all-reduce(%w), GROUPS, to_apply=%a", "all-reduce", 4, 6),
        ("%g = f32[1024,1024] all-reduce-start(%w), GROUPS, to_apply=%a", "all-reduce", 4, 6),
        (
            "%g = (f32[1024,1024], bf16[256,1024]) all-reduce(%w, /*index=1*/%x), GROUPS, to_apply=%a",
            *("all-reduce", 4.5, 6.75),
        ),
        ("%g = f32[1024,1024] all-to-all(%w), GROUPS, dimensions={0}", "all-to-all", 4, 3),
        (
            "%g = f32[1024,1024] collective-permute(%w), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}",
            *("collective-permute", 4, 4),
        ),
        (
            "%g = (f32[1024,1024], f32[1024,1024]) collective-permute-start(%w), PAIRS",
            *("collective-permute", 4, 4),
        ),
    ],
)
def test_a_collective_has_its_bytes_and_what_a_device_sends(line, kind, num_bytes, wire):
    pairs = "source_target_pairs={{0,1},{1,0}}"
    found = only(line.replace("GROUPS", GROUPS).replace("PAIRS", pairs))
    assert (found.kind, found.num_bytes, found.wire_bytes) == (kind, num_bytes * MIB, wire * MIB)
    assert (found.axes, found.times, found.across_slices) == (("fsdp",), 1, False)


def test_the_ends_of_asynchronous_collectives_are_not_counted():
    start = f"%s = (bf16[256,1024], bf16[1024,1024]) all-gather-start(%x), {GROUPS}"
    assert only(start, "%d = bf16[1024,1024] all-gather-done(%s)").times == 1


def test_a_wrapped_asynchronous_computation_is_counted_once():
    wrapped = (
        "%wrapped (p: f32[1024,1024]) -> f32[256,1024] {\n  %p = f32[1024,1024]{1,0} parameter(0)\n"
        f"  ROOT %rs = f32[256,1024] reduce-scatter(%p), {GROUPS}, to_apply=%a\n}}\n"
    )
    start = "%s = ((f32[1024,1024]), f32[256,1024], u32[]) async-start(%w), calls=%wrapped"
    done = "%d = f32[256,1024] async-done(%s), calls=%wrapped"
    found = only(start, done, computations=wrapped)
    assert (found.kind, found.times, found.num_bytes) == ("reduce-scatter", 1, 4 * MIB)


def test_a_collective_in_the_layers_runs_as_often_as_they_do():
    line = f'%g = bf16[1024,1024] all-gather(%x), {GROUPS}, metadata={{op_name="jit/attention_block/dot"}}'
    found = only(run_loop("layers"), computations=looped("layers", line))
    assert (found.times, found.inside_layers) == (3, True)
    assert found.operation == "jit/attention_block/dot"


def test_a_collective_in_the_loop_of_the_loss_is_outside_the_layers():
    line = (
        f'%g = bf16[1024,1024] all-gather(%x), {GROUPS}, metadata={{op_name="jit/token_loss/while/body/c"}}'
    )
    body = looped("chunks", line).replace("mlp_block", "token_loss")
    found = only(run_loop("chunks", 7), computations=body)
    assert (found.times, found.inside_layers) == (7, False)


def test_a_nameless_collective_is_where_its_loop_is_and_where_its_likes_are():
    """Programs for slices name few collectives, and run a layer outside the loop."""
    line = f"%g = bf16[1024,1024] all-gather(%x), channel_id=1, {GROUPS}"
    alike = f"%h = bf16[1024,1024] all-gather(%x), channel_id=9, {GROUPS}"
    other = f"%o = bf16[1024,2048] all-gather(%x), channel_id=8, {GROUPS}"
    found = find_collectives(
        program(run_loop("layers"), alike, other, computations=looped("layers", line)), mesh_of()
    )
    assert {(each.source_name, each.inside_layers) for each in found} == {
        ("g", True),
        ("h", True),
        ("o", False),
    }


def test_a_tpu_sum_that_keeps_a_part_is_a_reduce_scatter():
    fused = (
        "%all-reduce-scatter.3 (p: f32[1024,1024]) -> f32[256,1024] {\n"
        "  %p = f32[1024,1024]{1,0} parameter(0)\n"
        f"  %sum = f32[1024,1024] all-reduce(%p), channel_id=4, {GROUPS}, to_apply=%a\n"
        "  ROOT %cut = f32[256,1024] dynamic-slice(%sum), dynamic_slice_sizes={256,1024}\n}\n"
    )
    found = only(
        "%f = f32[256,1024] fusion(%w), kind=kCustom, calls=%all-reduce-scatter.3", computations=fused
    )
    assert (found.kind, found.num_bytes, found.wire_bytes) == ("reduce-scatter", 4 * MIB, 3 * MIB)


def test_a_tpu_gather_beside_arithmetic_is_one_gather_though_three_fusions_name_it():
    gather = (
        f'%g.N = bf16[1024,1024] all-gather(%p), channel_id=5, {GROUPS}, frontend_attributes={{chain_id="2"}}'
    )
    fusions = "".join(
        f"%fused.{n} (p: bf16[256,1024]) -> bf16[1024,1024] {{\n  %p = bf16[256,1024]{{1,0}} parameter(0)\n"
        f"  {gather.replace('N', str(n))}\n}}\n\n"
        for n in range(3)
    )
    lines = [f"%f.{n} = bf16[1024,1024] fusion(%x), kind=kOutput, calls=%fused.{n}" for n in range(3)]
    assert only(*lines, computations=fusions).times == 1


def test_a_tpu_gather_that_goes_on_beside_a_loop_runs_once():
    def fused(name: str, more: str = "") -> str:
        gather = f"%g.{name} = bf16[1024,1024] all-gather(%p), channel_id=1, {GROUPS}"
        return (
            f"%fused.{name} (p: bf16[256,1024]) -> bf16[1024,1024] {{\n"
            "  %p = bf16[256,1024]{1,0} parameter(0)\n"
            f'  {gather}, frontend_attributes={{chain_id="0"}}\n{more}}}\n\n'
        )

    start = '  %s = bf16[] custom-call(%g.first), custom_call_target="AsyncCollectiveStart"\n'
    call = "%f.NAME = bf16[1024,1024] fusion(%x), kind=kOutput, calls=%fused.NAME"
    loop = looped("body", call.replace("NAME", "between"))
    found = only(
        call.replace("NAME", "first"),
        run_loop("body"),
        computations=fused("first", start) + fused("between") + loop,
    )
    assert found.times == 1


ZEROS = (
    "%zero = bf16[] constant(0)",
    "%zeros = bf16[1024,1024] broadcast(%zero), dimensions={}",
    "%i = s32[] constant(7)",
)
SUM = f"%sum = bf16[1024,1024] all-reduce(%padded), {GROUPS}, to_apply=%a"


def test_a_gather_done_as_a_sum_of_padded_parts_is_an_all_reduce_and_says_so():
    written = "%part = bf16[1024,1024] dynamic-update-slice(%zeros, %x, %i, %i)"
    found = only(*ZEROS, written, "%padded = bf16[1024,1024] copy(%part)", SUM)
    assert (found.kind, found.is_padded, found.wire_bytes) == ("all-reduce", True, 3 * MIB)


def test_a_part_that_a_fusion_writes_into_zeros_is_padded_too():
    fused = (
        "%write (q: bf16[1024,1024], p: bf16[256,1024]) -> bf16[1024,1024] {\n"
        "  %q = bf16[1024,1024]{1,0} parameter(0)\n  %p = bf16[256,1024]{1,0} parameter(1)\n"
        "  ROOT %u = bf16[1024,1024] dynamic-update-slice(%q, %p)\n}\n"
    )
    call = "%padded = bf16[1024,1024] fusion(%zeros, %x), kind=kLoop, calls=%write"
    assert only(*ZEROS, call, SUM, computations=fused).is_padded


def test_a_sum_of_whole_arrays_is_not_padded():
    assert not only(f"%sum = f32[1024,1024] all-reduce(%w), {GROUPS}, to_apply=%a").is_padded


SEND = (
    "%s = (f32[256,1024]{1,0}, u32[], token[]) send(%part, %after), channel_id=2, is_host_transfer=true, "
    'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
    '_xla_host_transfer_rendezvous="all-reduce.5_0",_xla_megascale_transfer_type="ALL_REDUCE"}'
)


def test_what_is_sent_between_slices_is_a_send_along_data():
    part = ("%part = f32[256,1024]{1,0} parameter(2)", "%after = token[] after-all()")
    found = only(
        *part, SEND, "%r = (f32[256,1024], u32[], token[]) recv(%after), is_host_transfer=true", num_slices=2
    )
    assert (found.kind, found.axes, found.across_slices, found.group) == ("send", ("data",), True, 2)
    assert (found.num_bytes, found.wire_bytes, found.dtype) == (MIB, MIB, "f32")


def test_a_group_that_spans_slices_is_across_them():
    over_data = "replica_groups={{0,4},{1,5},{2,6},{3,7}}"
    found = only(f"%g = f32[1024,1024] all-reduce(%w), {over_data}, to_apply=%a", num_slices=2)
    assert (found.axes, found.across_slices) == (("data",), True)


def test_a_collective_of_one_device_sends_nothing_and_is_left_out():
    alone = "replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"
    assert find_collectives(program(f"%g = f32[1024,1024] all-reduce(%w), {alone}"), mesh_of()) == []


def test_an_unknown_form_of_groups_is_an_error():
    with pytest.raises(ValueError, match="in a form that is not known"):
        find_collectives(program("%g = f32[1024,1024] all-reduce(%w), replica_groups=ring"), mesh_of())

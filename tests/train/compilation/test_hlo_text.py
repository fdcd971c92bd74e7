"""A compiled program is read whole: types, loops, fusions, and the traps of its text."""

import pytest

from flaxmill.train.compilation.hlo_text import Array, find_arrays, find_sites, parse_program, trip_count

LOOP = """HloModule step, is_scheduled=true

%body (state.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %inner.1 = f32[8,4]{1,0} fusion(%state.1), kind=kLoop, calls=%fused, metadata={op_name="a/mlp_block/dot"}
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%state.1, %inner.1)
}

%fused (p: f32[8,4]) -> f32[8,4] {
  ROOT %p = f32[8,4]{1,0} parameter(0)
}

%condition (state.2: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state.2 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.2), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %first = s32[] constant(FIRST)
  %first.copy = s32[] copy(%first)
  %start = (s32[], f32[8,4]{1,0}) tuple(%first.copy, %x)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_of_tpu_programs_runs_as_often_as_its_condition_says():
    program = parse_program(LOOP.replace("FIRST", "0"))
    entry = program.computations[program.entry]
    assert trip_count(program, entry, entry["loop"]) == 12
    assert {name: [(s.host, s.times) for s in sites] for name, sites in find_sites(program).items()} == {
        "main": [("main", 1)],
        "body": [("body", 12)],
        "fused": [("body", 12)],
    }


def test_a_loop_whose_first_run_stands_before_it_runs_one_time_less():
    program = parse_program(LOOP.replace("FIRST", "1"))
    assert find_sites(program)["fused"][0].times == 11


def test_a_stated_number_of_runs_has_precedence():
    stated = 'body=%body, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0"}}'
    program = parse_program(LOOP.replace("FIRST", "0").replace("body=%body", stated))
    assert find_sites(program)["body"][0].times == 5


def test_loops_in_loops_multiply():
    inner = "  %again = (s32[], f32[8,4]{1,0}) while(%state.1), condition=%condition, body=%deep\n"
    deep = "%deep (p.9: s32[]) -> s32[] {\n  ROOT %p.9 = s32[] parameter(0)\n}\n\nENTRY"
    text = LOOP.replace("FIRST", "0").replace("  ROOT %out", f"{inner}  ROOT %out").replace("ENTRY", deep, 1)
    assert find_sites(parse_program(text))["deep"][0].times == 144


def test_a_loop_that_does_not_say_how_often_it_runs_is_refused():
    text = LOOP.replace("FIRST", "0").replace("direction=LT", "direction=NE")
    text = text.replace("%i = s32[] get-tuple-element(%state.2), index=0", "%i = s32[] constant(3)")
    with pytest.raises(ValueError, match=r"the loop loop .* does not say how often it runs"):
        find_sites(parse_program(text))


def test_a_string_with_line_breaks_hides_nothing_that_follows():
    kernel = (
        '  %k = f32[8,4]{1,0} custom-call(%x), metadata={op_name="pallas\n}\n  %no = f32[] q(\\"1\\")"}\n'
    )
    text = LOOP.replace("FIRST", "0").replace("  %first =", f"{kernel}  %first =")
    entry = parse_program(text).computations["main"]
    assert list(entry) == ["x", "k", "first", "first.copy", "start", "loop", "y"]


def test_types_are_read_with_layouts_comments_and_nesting():
    types = "((bf16[2,3]{1,0:T(8,128)(2,1)}, /*index=1*/f32[]), (s4[7]{0}, pred[3]{0}))"
    line = f"  %t = {types} op(%a, /*index=1*/%b)"
    text = f"ENTRY %main (a: f32[]) -> f32[] {{\n{line}\n}}\n"
    made = parse_program(text).computations["main"]["t"]
    assert made.arrays == (
        Array("bf16", (2, 3)),
        Array("f32", ()),
        Array("s4", (7,)),
        Array("pred", (3,)),
    )
    assert [array.num_bytes for array in made.arrays] == [12, 4, 3, 3]
    assert made.operands == ("a", "b")


def test_arrays_on_the_host_are_told_apart_by_their_layout():
    types = "(bf16[4,8]{1,0:T(8,128)(2,1)S(5)}, bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, bf16[4,8])"
    assert [array.on_host for array in find_arrays(types)] == [True, False, False]


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_program("HloModule nothing\n")

"""Each setting is shown with what it costs and what it saves."""

from dataclasses import replace

import pytest
from planned_runs import named, small_gpt

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.effects import list_effects

MESH = {"data": 2, "fsdp": 32, "tensor": 1}


def test_recomputation_trades_memory_for_time():
    experiment = named("llama3_8b")
    found = [
        effect for effect in list_effects(experiment, MESH, CHIPS["v5p"]) if effect.field == "model.remat"
    ]
    assert [effect.value for effect in found] == ["none", "dots", "full"]
    assert [effect.is_set for effect in found] == [False, False, True]
    memory = [effect.memory_bytes for effect in found]
    assert memory == sorted(memory, reverse=True)
    seconds = [effect.seconds or 0.0 for effect in found]
    assert seconds == sorted(seconds)
    planned = estimate(experiment, MESH, CHIPS["v5p"])
    assert planned.roofline is not None
    assert found[-1][3:] == (planned.memory.total, found[0].sent_bytes, planned.roofline.seconds)


def test_splitting_tokens_is_a_setting_where_layers_are_divided():
    experiment = named("llama3_8b")
    divided = list_effects(experiment, {"data": 2, "fsdp": 8, "tensor": 4}, CHIPS["v5p"])
    whole, split = (effect for effect in divided if effect.field == "mesh.sequence_parallel")
    assert (whole.value, whole.is_set, split.value, split.is_set) == (False, True, True, False)
    assert split.memory_bytes < whole.memory_bytes
    undivided = list_effects(experiment, MESH, CHIPS["v5p"])
    assert not [effect for effect in undivided if effect.field == "mesh.sequence_parallel"]


def test_offloaded_moments_take_none_of_the_device_and_other_optimizers_have_no_such_row():
    experiment = named("llama3_8b")
    here, away = (e for e in list_effects(experiment, MESH, CHIPS["v5p"]) if e.field == "optimizer.offload")
    moments = 2 * 4 * 8_030_261_248 / 32
    assert here.memory_bytes - away.memory_bytes == pytest.approx(moments, rel=0.01)
    refusing = replace(experiment, optimizer=replace(experiment.optimizer, name="adafactor"))
    fields = {effect.field for effect in list_effects(refusing, MESH, CHIPS["v5p"])}
    assert "model.remat" in fields
    assert "optimizer.offload" not in fields


def test_an_unknown_chip_has_no_seconds():
    effects = list_effects(small_gpt(), {"data": 8, "fsdp": 1, "tensor": 1}, None)
    assert {effect.seconds for effect in effects} == {None}
    assert effects[0].sent_bytes > 0


def test_moments_in_bfloat16_take_half():
    experiment = named("llama3_8b")
    effects = list_effects(experiment, MESH, CHIPS["v5p"])
    wide, low = (effect for effect in effects if effect.field == "optimizer.moment_dtype")
    moments = 2 * 8_030_261_248 / 32  # two for each parameter, of which a device has a part
    assert (wide.is_set, low.is_set) == (True, False)
    assert wide.memory_bytes - low.memory_bytes == pytest.approx(2 * moments, rel=0.01)

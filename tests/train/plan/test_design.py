"""The design's collectives have the sizes that the weights and the rows give them."""

import dataclasses

from planned_runs import named, small_gpt

from flaxmill.train.plan.analytic import rows_of
from flaxmill.train.plan.design import Planned, _over_tensor, list_collectives
from flaxmill.train.plan.roofline import PASSES

LAYER = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336)  # weights of one layer of LLaMA-3-8B, norms left out
TABLE = 128_256 * 4096
GATHER_SCATTER = "all-gather", "reduce-scatter"


def collectives(experiment, data=1, fsdp=1, tensor=1) -> dict[str, Planned]:
    mesh = {"data": data, "fsdp": fsdp, "tensor": tensor}
    found = list_collectives(experiment, tuple(mesh.items()), rows_of(experiment, mesh))
    return {collective.what: collective for collective in found}


def test_a_layer_is_gathered_once_each_way_and_its_gradient_scattered_once():
    found = collectives(named("llama3_8b"), fsdp=64)
    gather, scatter = found["weights of a layer"], found["gradients of a layer"]
    assert gather[1:5] == ("all-gather", "bfloat16", 2 * LAYER, 64)
    assert scatter[1:5] == ("reduce-scatter", "float32", 4 * LAYER, 32)
    assert gather.axes == scatter.axes == ("fsdp",)
    assert gather.inside_layers
    assert scatter.inside_layers


def test_each_table_is_gathered_once_and_its_gradient_scattered_at_each_use():
    untied = collectives(named("llama3_8b"), fsdp=64)
    for table in ("embed", "lm_head"):
        assert untied[f"table {table}"][3:5] == (2 * TABLE, 1)
        assert untied[f"gradient of the table {table}"][3:5] == (4 * TABLE, 1)
    tied = collectives(small_gpt(), fsdp=8)
    assert tied["table embed"].times == 1
    assert tied["gradient of the table embed"].times == 2


def test_only_shards_are_summed_over_data_and_only_once():
    found = collectives(named("llama3_8b", accumulate=4), data=2, fsdp=32)
    shards = found["gradients, shard by shard"]
    assert shards.axes == ("data",)
    assert shards.times == 1
    assert shards.num_bytes == 4 * (32 * LAYER + 2 * TABLE) // 32
    assert found["weights of a layer"].times == 4 * 64
    assert found["gradients of a layer"].times == 4 * 32


def test_without_fsdp_nothing_is_gathered():
    found = collectives(named("llama3_8b"), data=64)
    assert {one.kind for one in found.values()} == {"all-reduce"}
    assert sum(one.num_bytes for one in found.values()) == 4 * 8_030_261_248


def test_tensor_parallelism_sums_each_block_once_a_pass():
    experiment = named("llama3_8b", model__remat="dots")
    found = collectives(experiment, fsdp=8, tensor=8)
    rows = 512 // 8
    size = 2 * rows * 8192 * 4096
    assert found["activations of a layer"][3:6] == (size, 32 * 2, ("tensor",))
    assert found["their gradients"][3:6] == (size, 32 * 2, ("tensor",))
    assert found["weights of a layer"].num_bytes == 2 * LAYER // 8
    # Full rematerialisation sums the attention's results again; those of the MLP no gradient needs.
    full = collectives(named("llama3_8b"), fsdp=8, tensor=8)
    assert full["activations of a layer"].times == 32 * 3


def test_tokens_that_are_shared_between_blocks_are_gathered_and_scattered():
    """In the layers they are the bytes of the sums, but for what is gathered again to be computed again."""
    experiment = named("llama3_8b", model__remat="none")
    rows = rows_of(experiment, {"data": 1, "fsdp": 8, "tensor": 8})
    sums, pairs = (list(_over_tensor(experiment.model, rows, splits)) for splits in (False, True))
    assert {one.kind for one in pairs if one.inside_layers} == {*GATHER_SCATTER}
    assert [one.times for one in pairs if one.inside_layers] == [32 * 4, 32 * 4]
    ends = [
        sum(one.times for one in pairs if not one.inside_layers and one.kind == kind)
        for kind in GATHER_SCATTER
    ]
    assert ends == [2, 1]  # gathered after the layers, as are their gradients; scattered once embedded
    inside = [[one for one in found if one.inside_layers] for found in (sums, pairs)]
    moved = [sum(one.times * one.num_bytes * PASSES.get(one.kind, 1) for one in found) for found in inside]
    assert moved[0] == moved[1]


def test_frozen_weights_send_no_gradient():
    experiment = named("llama3_8b", optimizer__freeze=("layers/*",))
    found = collectives(experiment, fsdp=64)
    assert "weights of a layer" in found
    assert "gradients of a layer" not in found


def of_stages(**changes):
    """LLaMA-3-8B on stage 4 x fsdp 2 x tensor 2: 16 rows in 8 microbatches."""
    experiment = named("llama3_8b", batch_size=32, **changes)
    mesh = {"data": 1, "stage": 4, "fsdp": 2, "tensor": 2}
    return list_collectives(experiment, tuple(mesh.items()), rows_of(experiment, mesh))


def test_layers_of_stages_change_hands_and_are_gathered_once_whatever_the_ticks():
    found = {one.what: one for one in of_stages()}
    layers = 32 * LAYER // 2 // 4  # of a stage, divided by tensor
    assert found["layers change hands"][1:6] == ("all-to-all", "bfloat16", 2 * layers // 2, 1, ("stage",))
    assert found["weights of a stage"][1:6] == ("all-gather", "bfloat16", 2 * layers, 1, ("fsdp",))
    assert found["gradients of a stage"][1:6] == ("reduce-scatter", "float32", 4 * layers, 1, ("fsdp",))
    assert found["gradients change hands"][1:6] == ("all-to-all", "float32", 4 * layers // 2, 1, ("stage",))
    assert "weights of a layer" not in found


def test_microbatches_pass_on_at_each_tick_and_layers_sum_as_often():
    found = {one.what: one for one in of_stages(pipeline_microbatches=8, pipeline_rounds=2)}
    ticks, rows = 8 * 2 + 3, 16 // 8
    size = 2 * rows * 8192 * 4096
    assert found["rows on to the next stage"][3:6] == (size, 2 * ticks, ("stage",))
    assert found["rows of all stages, and gradients"][3:6] == (8 * size, 2, ("stage",))
    assert found["activations of a layer"][3:6] == (size, 3 * ticks * 32 // 4 // 2, ("tensor",))


def test_tables_are_gathered_over_stages_while_they_are_small():
    tables = [one for one in of_stages() if one.what == "table embed"]
    assert [(one.axes, one.num_bytes) for one in tables] == [(("stage",), TABLE // 2), (("fsdp",), TABLE)]


def test_one_device_sends_nothing():
    experiment = small_gpt()
    assert collectives(experiment) == {}
    assert collectives(dataclasses.replace(experiment, accumulate=2)) == {}


MIXTRAL_EXPERTS = 32 * 8 * 3 * 4096 * 14_336


def with_experts(fsdp=1, expert=8, **changes):
    """What a step of Mixtral sends, a row a device unless said."""
    fields = dict(batch_size=fsdp * expert) | changes
    mesh = {"data": 1, "fsdp": fsdp, "expert": expert, "tensor": 1}
    experiment = named("mixtral_8x7b", **fields)
    found = list_collectives(experiment, tuple(mesh.items()), rows_of(experiment, mesh))
    return {collective.what: collective for collective in found}


def test_tokens_go_to_experts_in_chunks_and_come_back():
    """Slots for 2 choices of 8 x 8,192 tokens would take 1 GiB, eight times what a chunk may."""
    found = with_experts()
    gather, scatter = found["tokens for experts, and gradients"], found["outputs of experts, and gradients"]
    size = 2 * 8 * 8192 * 4096 // 8
    assert gather[1:6] == ("all-gather", "bfloat16", size, 8 * 32 * 3, ("expert",))
    assert scatter[1:6] == ("reduce-scatter", "bfloat16", size, 8 * 32 * 2, ("expert",))
    assert not any(one.kind == "all-to-all" for one in found.values())


def test_choices_are_sent_where_a_capacity_makes_them_few():
    found = with_experts(model__expert_capacity=1.0)
    assert found["slots of experts"][1:6] == (
        "all-to-all",
        "bfloat16",
        2 * 16_384 * 4096,
        32 * 5,
        ("expert",),
    )
    assert "tokens for experts, and gradients" not in found
    kept = with_experts(model__expert_capacity=1.0, model__remat="none")
    assert kept["slots of experts"].times == 32 * 4
    many = with_experts(model__expert_capacity=4.0)  # 8 slots a token, as many as devices
    assert many["tokens for experts, and gradients"].times == 32 * 3


def test_gradients_of_experts_are_not_summed_over_the_devices_that_divide_them():
    total = 46_702_792_704
    found = with_experts()
    assert found["gradients that are not split"].num_bytes == 4 * (total - MIXTRAL_EXPERTS)
    assert not any("of experts" in what and one.kind == "all-reduce" for what, one in found.items())
    assert found["gradients that are not split"].axes == ("expert",)
    split = with_experts(fsdp=4, expert=2)
    assert "gradients of experts, shard by shard" not in split  # nor are there copies of them
    layer = 4096 * (2 * 4096 + 2 * 1024 + 8) + MIXTRAL_EXPERTS // 32 // 2
    assert split["weights of a layer"].num_bytes == 2 * layer

"""What compilers for absent GPUs and TPUs make of the step: weights are gathered and reduced as designed."""

import dataclasses
import functools
import math
from typing import Any

import pytest

from flaxmill.configs import gpt2_124m, llama3_8b
from flaxmill.configs.experts import mixtral_8x7b
from flaxmill.model import abstract_params, logical_axes
from flaxmill.model.params import flatten, group_of
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.plan.weights import state_bytes

pytestmark = pytest.mark.aot

SMALL = 64 * 1024  # bytes: norms, biases and sums, which are whole on every device
LLAMA = dict(num_layers=4, embed_dim=1024, num_heads=8, num_kv_heads=4, mlp_dim=3584, vocab_size=32_000)
GPT = dict(num_layers=4, embed_dim=512, num_heads=8, vocab_size=50_257, remat="full")

EXPERTS = LLAMA | dict(mlp_dim=1024, num_experts=8, load_balance_loss=0.02, router_z_loss=0.001)
BASES = {"llama": (llama3_8b, LLAMA), "gpt": (gpt2_124m, GPT), "experts": (mixtral_8x7b, EXPERTS)}


def experiment_of(name, mesh, rows=1, model=(), optimizer=(), **changes):
    config, sizes = BASES[name][0].config, BASES[name][1]
    mesh = MeshConfig(**dict(mesh))
    assert mesh.data is not None
    assert mesh.fsdp is not None
    assert mesh.stage is not None
    return dataclasses.replace(
        config,
        batch_size=rows * mesh.data * mesh.stage * mesh.fsdp * (mesh.expert or 1),
        model=dataclasses.replace(config.model, **{**sizes, "attention": "xla", **dict(model)}),
        data=dataclasses.replace(config.data, sequence_length=512),
        optimizer=dataclasses.replace(config.optimizer, **dict(optimizer)),
        mesh=mesh,
        **changes,
    )


@functools.cache
def compiled(name, topology, mesh, num_slices=1, **changes):
    """The step and its collectives; arguments are tuples, so that tests share what they compile."""
    from flaxmill.sharding.hardware.topologies import find_topology
    from flaxmill.train.compilation.collectives import find_collectives
    from flaxmill.train.compilation.compiled_step import compile_step

    step = compile_step(experiment_of(name, mesh, **changes), find_topology(topology, num_slices))
    return step, find_collectives(step.text, step.mesh)


def sizes_of(step):
    """Elements of what fsdp splits, in all layers and in the tables, on a device that has gathered it."""
    config, mesh = step.experiment.model, step.mesh
    shapes, axes = flatten(abstract_params(config)), flatten(logical_axes(config))
    sizes = {"layers": 0, "tables": 0, "routers": 0, "largest layer": 0}
    for path, leaf in shapes.items():
        if "embed" not in axes[path]:
            continue
        split = {"vocab", "heads", "kv_heads", "mlp", "expert_mlp"} & {*axes[path]}
        shared = mesh.shape["tensor"] if split else 1
        size = math.prod(leaf.shape) // shared
        sizes["routers" if "router" in path else "layers" if group_of(path) else "tables"] += size
        if group_of(path):
            sizes["largest layer"] += size // leaf.shape[0]
    return sizes


def of(collectives, kind, axis, *, inside, least=SMALL):
    return [
        each
        for each in collectives
        if (each.kind, each.axes, each.inside_layers) == (kind, (axis,), inside) and each.num_bytes > least
    ]


def sent(found):
    return sum(each.num_bytes * each.times for each in found)


CASES = [
    ("llama", "h100:1x8", (("data", 1), ("fsdp", 8)), 1),
    ("gpt", "h100:1x8", (("data", 1), ("fsdp", 8)), 1),
    ("llama", "h100:2x8", (("data", 2), ("fsdp", 4), ("tensor", 2)), 1),
    ("llama", "v5e:2x4", (("data", 1), ("fsdp", 8)), 1),
    ("llama", "v5e:4x4", (("data", 2), ("fsdp", 4), ("tensor", 2)), 1),
    ("experts", "h100:1x8", (("data", 1), ("fsdp", 8)), 1),
    ("experts", "h100:2x8", (("data", 2), ("fsdp", 4), ("tensor", 2)), 1),
    ("experts", "v5e:2x4", (("data", 2), ("fsdp", 2), ("tensor", 2)), 1),
]


@pytest.fixture(params=CASES, ids=[f"{name} {topology}" for name, topology, *_ in CASES])
def program(request):
    return compiled(*request.param)


def test_weights_are_gathered_once_forward_and_once_backward_in_the_compute_dtype(program):
    step, collectives = program
    sizes = sizes_of(step)
    gathers = of(collectives, "all-gather", "fsdp", inside=True)
    assert {each.dtype for each in gathers} == {"bf16"}
    # Routers stay float32, and are small: alone they are not counted, joined to others they are.
    assert 0 <= sent(gathers) - 2 * 2 * sizes["layers"] <= 2 * 4 * sizes["routers"]
    assert max(each.num_bytes for each in gathers) <= 2 * sizes["largest layer"] + 4 * sizes["routers"]


def test_a_table_is_gathered_once_for_all_its_uses(program):
    step, collectives = program
    gathers = of(collectives, "all-gather", "fsdp", inside=False)
    assert {each.dtype for each in gathers} == {"bf16"}
    assert sent(gathers) == 2 * sizes_of(step)["tables"]


def test_gradients_are_reduce_scattered_in_float32_the_embeddings_too(program):
    step, collectives = program
    sizes = sizes_of(step)
    of_layers, of_tables = (of(collectives, "reduce-scatter", "fsdp", inside=i) for i in (True, False))
    assert {each.dtype for each in of_layers + of_tables} == {"f32"}
    assert 0 <= sent(of_layers) - 4 * sizes["layers"] <= 4 * sizes["routers"]
    assert sent(of_tables) == 4 * sizes["tables"]
    assert any("embeddings" in each.operation for each in of_tables)
    assert not of(collectives, "all-reduce", "fsdp", inside=True)
    assert not of(collectives, "all-reduce", "fsdp", inside=False, least=256 * 1024)


def test_copies_exchange_shards_of_gradients_once_a_step():
    step, collectives = compiled("llama", "h100:2x8", (("data", 2), ("fsdp", 4), ("tensor", 2)))
    sizes = sizes_of(step)
    sums = [each for each in collectives if each.axes == ("data",) and each.num_bytes > SMALL]
    assert {(each.kind, each.dtype, each.times) for each in sums} == {("all-reduce", "f32", 1)}
    split = 4 * (sizes["layers"] + sizes["tables"]) // 4
    assert split <= sent(sums) <= 1.01 * split  # norms beside them


def test_gradients_are_sent_in_the_dtype_that_is_set():
    mesh = (("data", 1), ("fsdp", 8))
    _, collectives = compiled("llama", "h100:1x8", mesh, optimizer=(("gradient_dtype", "bfloat16"),))
    scatters = [each for each in collectives if each.kind == "reduce-scatter" and each.num_bytes > SMALL]
    assert {each.dtype for each in scatters} == {"bf16"}


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_gathered_weights_are_not_kept_for_the_backward_pass(remat):
    step, collectives = compiled("llama", "h100:1x8", (("data", 1), ("fsdp", 8)), model=(("remat", remat),))
    gathers = of(collectives, "all-gather", "fsdp", inside=True)
    assert sent(gathers) == 2 * 2 * sizes_of(step)["layers"]


def test_split_tokens_are_scattered_and_gathered_and_never_summed_whole():
    mesh = (("data", 2), ("fsdp", 4), ("tensor", 2), ("sequence_parallel", True))
    _, collectives = compiled("llama", "h100:2x8", mesh)
    along = [each for each in collectives if each.axes == ("tensor",) and each.num_bytes > SMALL]
    assert {each.kind for each in along} == {"all-gather", "reduce-scatter"}
    assert {each.dtype for each in along} == {"bf16"}


def test_a_group_of_64_tpu_devices_sends_what_gathers_and_scatters_send():
    step, collectives = compiled(
        "llama", "v5e:8x8", (("data", 1), ("fsdp", 64)), model=(("num_layers", 2), ("embed_dim", 2048))
    )
    sizes = sizes_of(step)
    along = [each for each in collectives if each.axes == ("fsdp",)]
    once = (2 * 2 + 4) * sizes["layers"] + (2 + 4) * sizes["tables"]
    assert sum(each.wire_bytes * each.times for each in along) <= 1.01 * once
    assert not [each for each in along if each.kind == "all-reduce" and each.num_bytes > SMALL]


def test_the_gradient_of_a_single_head_of_a_tpu_device_is_scattered():
    mesh = (("data", 2), ("fsdp", 8), ("tensor", 4))
    _, collectives = compiled("llama", "v5e:8x8", mesh, model=(("num_layers", 2),))
    assert {(1024, 128), (1024, 2, 128)} <= {
        each.shape for each in collectives if each.kind == "reduce-scatter"
    }
    sums = of(collectives, "all-reduce", "fsdp", inside=True)
    assert not sums


@pytest.mark.parametrize("topology", ["h100:2x8", "v5e:4x4"])
def test_experts_send_as_much_over_tensor_as_an_mlp(topology):
    mesh = (("data", 2), ("fsdp", 4), ("tensor", 2))
    found = [of(compiled(name, topology, mesh)[1], "all-reduce", "tensor", inside=True) for name in BASES]
    dense, experts = sent(found[0]), sent(found[2])
    assert {each.dtype for each in found[2]} == {"bf16"}
    assert experts <= dense


TOKENS_OF_ROWS = 512 * 1024 * 2  # bytes of a device's row of hidden states in bfloat16


@pytest.mark.parametrize("topology", ["h100:1x8", "v5e:2x4"])
def test_tokens_are_gathered_for_experts_and_their_outputs_scattered_back(topology):
    """Gathered forward, to be computed again, and as gradients; scattered forward and as gradients."""
    step, collectives = compiled("experts", topology, (("data", 1), ("fsdp", 2), ("expert", 4)))
    gathers, scatters = (
        of(collectives, kind, "expert", inside=True) for kind in ("all-gather", "reduce-scatter")
    )
    assert {each.dtype for each in gathers + scatters} == {"bf16"}
    assert sent(scatters) == 4 * 2 * 4 * TOKENS_OF_ROWS
    # On GPU what says where tokens go is in the same gathers.
    assert sent(gathers) == pytest.approx(4 * 3 * 4 * TOKENS_OF_ROWS, rel=0.02)
    _check_experts_stay(step, collectives)


@pytest.mark.parametrize("topology", ["h100:1x8", "v5e:2x4"])
def test_choices_are_sent_where_capacity_makes_them_few(topology):
    """There and back forward, there to be computed again, and both ways as gradients."""
    mesh = (("data", 1), ("fsdp", 2), ("expert", 4))
    step, collectives = compiled("experts", topology, mesh, model=(("expert_capacity", 1.0),))
    sends = of(collectives, "all-to-all", "expert", inside=True)
    assert {each.dtype for each in sends} == {"bf16"}
    assert sent(sends) == 4 * 5 * 2 * TOKENS_OF_ROWS  # two slots a token
    assert not of(collectives, "all-gather", "expert", inside=True)
    assert not of(collectives, "reduce-scatter", "expert", inside=True)
    _check_experts_stay(step, collectives)


def _check_experts_stay(step, collectives):
    """Along `expert` gradients of all other weights are summed once a step, those of experts never."""
    sums = [each for each in collectives if each.axes == ("expert",) and each.kind == "all-reduce"]
    config = step.experiment.model
    shapes, axes = flatten(abstract_params(config)), flatten(logical_axes(config))
    others = sum(math.prod(shape.shape) for path, shape in shapes.items() if "experts" not in axes[path])
    assert sum(each.num_bytes * each.times for each in sums) == pytest.approx(4 * others / 2, rel=0.01)
    experts = 3 * config.num_layers * config.num_experts * config.embed_dim * config.expert_hidden_dim
    state = state_bytes(config, step.experiment.optimizer, tuple(step.mesh.shape.items()))
    assert state.parameters == pytest.approx(4 * (experts / 4 + others) / 2, rel=0.01)


EIGHT_BILLION = dict(num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, mlp_dim=14_336)


def test_offloaded_moments_make_room_for_a_model_that_does_not_fit():
    """LLaMA-3-8B's float32 weights, moments and gradients are 15 GiB a device, and a v5e has 15.75."""
    from flaxmill.train.compilation.compiled_step import TooLargeError

    mesh = (("data", 1), ("fsdp", 8))
    model = (*EIGHT_BILLION.items(), ("vocab_size", 128_256), ("remat", "full"))
    with pytest.raises(TooLargeError):
        compiled("llama", "v5e:2x4", mesh, model=model)
    step, collectives = compiled("llama", "v5e:2x4", mesh, model=model, optimizer=(("offload", True),))
    state = state_bytes(step.experiment.model, step.experiment.optimizer, tuple(step.mesh.shape.items()))
    assert state.optimizer < SMALL  # counts
    assert step.memory.host_state == pytest.approx(2 * state.parameters, rel=0.001)
    assert step.memory.arguments == pytest.approx(state.parameters, rel=0.001)
    # The update's own loop over the layers sends nothing.
    assert not [each for each in collectives if "update" in each.operation and each.num_bytes > SMALL]


def test_tpu_devices_that_share_shorter_rows_gather_keys_for_their_kernel():
    mesh = (("data", 1), ("fsdp", 4), ("context", 2))
    step, collectives = compiled("llama", "v5e:2x4", mesh, model=(("attention", "auto"),))
    assert "splash" in step.text
    assert not of(collectives, "collective-permute", "context", inside=True)
    heads, config = 2, step.experiment.model
    one = 512 * config.kv_heads * config.dim_per_head  # keys of a row
    gathered = of(collectives, "all-gather", "context", inside=True)
    assert {each.dtype for each in gathered} == {"bf16"}
    assert sent(gathered) == heads * 2 * one * 2 * config.num_layers  # forward, and computed again
    scattered = of(collectives, "reduce-scatter", "context", inside=True)
    assert {each.dtype for each in scattered} == {"f32"}
    assert sent(scattered) == heads * 4 * one * config.num_layers


@pytest.mark.parametrize(("context", "most_mib"), [(2, 1100), (4, 520), (8, 200)])
def test_attention_over_131072_tokens_takes_the_memory_of_a_device_s_own(context, most_mib):
    """Forward and backward for a row with 8 query and 2 key-value heads of 128, on v5e."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from flaxmill.model.layers.attention import attention
    from flaxmill.model.layers.visibility import Visibility
    from flaxmill.sharding.hardware.compiler_options import compiler_options
    from flaxmill.sharding.hardware.topologies import find_topology
    from flaxmill.sharding.local_rows import on_local_rows, rows_spec
    from flaxmill.sharding.mesh import make_mesh

    num_tokens = 131_072
    mesh = make_mesh(MeshConfig(data=8 // context, context=context), find_topology("v5e:2x4").devices)
    spec = rows_spec(mesh, with_tokens=True)
    of_heads = lambda heads: jax.ShapeDtypeStruct(  # noqa: E731
        (8 // context, num_tokens, heads, 128), jnp.bfloat16, sharding=NamedSharding(mesh, spec)
    )
    numbers = jax.ShapeDtypeStruct((8 // context, num_tokens), jnp.int32, sharding=NamedSharding(mesh, spec))

    def gradients(q, k, v, documents, places):
        def loss(q, k, v):
            visible = Visibility(documents, True, places=places[0])
            return attention(q, k, v, visible, scale=128**-0.5).astype(jnp.float32).sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    with jax.set_mesh(mesh):
        run = on_local_rows(gradients, mesh, (spec,) * 5, (spec,) * 3)
        lowered = jax.jit(run).lower(of_heads(8), of_heads(2), of_heads(2), numbers, numbers)
        options: Any = compiler_options("tpu")
        analysis: Any = lowered.compile(compiler_options=options).memory_analysis()
    assert analysis.temp_size_in_bytes <= most_mib * 2**20


STAGES = (("data", 1), ("stage", 4), ("fsdp", 2))
PIPELINES = [
    ("h100:1x8", STAGES),
    ("h100:1x8", (("data", 1), ("stage", 2), ("fsdp", 2), ("tensor", 2))),
    ("v5e:2x4", STAGES),
]


@pytest.mark.parametrize(("topology", "mesh"), PIPELINES)
def test_a_pipeline_sends_what_it_is_designed_to(topology, mesh):
    """Layers change hands and are gathered once, in the compute dtype, and nothing is gathered at a tick."""
    from flaxmill.train.plan.analytic import rows_of
    from flaxmill.train.plan.design import list_collectives
    from flaxmill.train.plan.findings import find_warnings

    # With 4 key heads, the TPU compiler joins the scatters of two arrays of 2 MiB, and sums them whole.
    step, collectives = compiled("llama", topology, mesh, rows=4, model=(("num_kv_heads", 8),))
    experiment, shape = step.experiment, dict(step.mesh.shape)
    designed: dict[tuple, int] = {}
    for one in list_collectives(experiment, tuple(shape.items()), rows_of(experiment, shape)):
        if {*one.axes} & {"stage", "fsdp"} and one.num_bytes > SMALL:
            dtype = {"bfloat16": "bf16", "float32": "f32"}[one.dtype]
            key = one.kind, dtype, one.axes
            designed[key] = designed.get(key, 0) + one.num_bytes * one.times
    found: dict[tuple, int] = {}
    for each in collectives:
        if {*each.axes} & {"stage", "fsdp"} and each.num_bytes > SMALL and each.dtype != "s32":
            key = each.kind, each.dtype, each.axes
            found[key] = found.get(key, 0) + each.num_bytes * each.times
    assert found.keys() == designed.keys()
    for key, num_bytes in designed.items():
        assert found[key] == pytest.approx(num_bytes, rel=0.01), key  # documents go beside the rows
    assert not find_warnings(collectives, experiment, step.mesh)

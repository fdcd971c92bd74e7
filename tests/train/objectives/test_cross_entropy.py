"""The chunked cross-entropy equals the plain one, on one device and on meshes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flaxmill.model.layers.tables import VOCABULARY, open_table
from flaxmill.sharding.local_rows import (
    on_local_rows,
    parameter_spec,
    rows_spec,
    sum_gradients,
    sum_over_rows,
)
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.objectives.cross_entropy import chunk_length, cross_entropy, tokens_of_chunk

B, T, D, V, VOCAB_SIZE = 8, 20, 16, 256, 200
MESHES = [(1, 1, 1), (8, 1, 1), (1, 4, 2), (2, 2, 2), (1, 1, 8)]


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden_BTD = jax.random.normal(keys[0], (B, T, D))
    table_VD, bias_V = jax.random.normal(keys[1], (V, D)), jax.random.normal(keys[2], (V,))
    return hidden_BTD, table_VD, bias_V, jax.random.randint(keys[3], (B, T), 0, VOCAB_SIZE)


WEIGHTS_BT = np.linspace(0.0, 1.0, B * T, dtype=np.float32).reshape(B, T)


ONE_DEVICE = make_mesh(MeshConfig(data=1))


def objective(nll_BT, log_z_BT, weights_BT=WEIGHTS_BT):
    """Uses both outputs, with unequal weights, so that both gradients are seen."""
    return (weights_BT * nll_BT).sum() + 0.1 * (weights_BT * log_z_BT**2).sum()


def plain(hidden_BTD, table_VD, bias_V, targets_BT):
    logits_BTV = (hidden_BTD @ table_VD.T + bias_V)[..., :VOCAB_SIZE]
    log_z_BT = jax.nn.logsumexp(logits_BTV, -1)
    nll_BT = log_z_BT - jnp.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
    return objective(nll_BT, log_z_BT)


def losses_of(hidden_BTD, table_VD, bias_V, targets_BT, chunk_tokens=None):
    table = open_table(table_VD, VOCABULARY, hidden_BTD.dtype)
    return cross_entropy(
        hidden_BTD, table, bias_V, targets_BT, vocab_size=VOCAB_SIZE, chunk_tokens=chunk_tokens
    )


def chunked(chunk_tokens, mesh=ONE_DEVICE):
    """The value and its gradients, as each device computes them for its rows."""

    def run(hidden_BTD, table_VD, bias_V, targets_BT, weights_BT):
        losses = losses_of(hidden_BTD, table_VD, bias_V, targets_BT, chunk_tokens)
        return objective(losses.nll, losses.log_z, weights_BT)

    def on_device(*arrays):
        value, (dhidden, *of_weights) = jax.value_and_grad(run, (0, 1, 2))(*arrays)
        return sum_over_rows(value), (dhidden, *sum_gradients(of_weights, [VOCABULARY, ("vocab",)]))

    rows, whole = rows_spec(mesh), PartitionSpec()
    table = parameter_spec(mesh, VOCABULARY)
    specs = (rows, table, whole, rows, rows)
    run_on_rows = on_local_rows(on_device, mesh, specs, (whole, (rows, table, whole)))
    return jax.jit(lambda *arrays: run_on_rows(*arrays, jnp.asarray(WEIGHTS_BT)))


def place(arrays, mesh):
    specs = [("batch", None), ("tensor", "fsdp"), ("tensor",), ("batch",)]
    axes = {"batch": ("data", "fsdp")}
    return [
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*(axes.get(str(a), a) for a in spec))))
        for x, spec in zip(arrays, specs, strict=True)
    ]


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("chunk_tokens", [None, 7])  # 7 does not divide 20
def test_value_and_gradients_equal_the_plain_loss(arrays, mesh_shape, chunk_tokens):
    expected = jax.value_and_grad(plain, (0, 1, 2))(*arrays)
    data, fsdp, tensor = mesh_shape
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    with jax.set_mesh(mesh):
        got = chunked(chunk_tokens, mesh)(*place(arrays, mesh))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # float32 sums over 160 tokens in another order; gradients are of order 1 to 10
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=4e-5)


def test_padded_ids_have_no_probability_and_no_gradient(arrays):
    hidden, table, bias, targets = arrays
    tempting = bias.at[VOCAB_SIZE:].set(1e4)
    value, (_, dtable, dbias) = chunked(None)(hidden, table, tempting, targets)
    np.testing.assert_allclose(value, chunked(None)(hidden, table, bias, targets)[0], rtol=1e-6)
    assert not dtable[VOCAB_SIZE:].any()
    assert not dbias[VOCAB_SIZE:].any()


def test_correct_says_whether_the_target_is_likeliest(arrays):
    hidden, table, bias, _ = arrays
    best = (hidden @ table.T + bias)[..., :VOCAB_SIZE].argmax(-1)
    assert losses_of(hidden, table, bias, best).correct.all()
    other = (best + 1) % VOCAB_SIZE
    assert not losses_of(hidden, table, bias, other, chunk_tokens=3).correct.any()


def test_loop_over_chunks_moves_neither_the_head_nor_its_gradient(arrays):
    """fsdp 4 x tensor 2: inside the loop only per-token values and hidden states may be reduced."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        text = str(chunked(5, mesh).lower(*place(arrays, mesh)).compile().as_text())
    loops = re.findall(r"body=%?([\w.\-]+)", text)
    assert len(loops) == 2, "one loop forward and one backward"
    for name in loops:
        body = text[text.index(f"%{name} ") :]
        body = body[: body.index("\n}")]
        for line in body.splitlines():
            match = re.search(
                r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)", line
            )
            if match:
                sizes = [dims.split(",") for dims in re.findall(r"\[([\d,]+)\]", match[1])]
                assert all(str(V // 2) not in dims and str(V) not in dims for dims in sizes), line


def test_head_is_gathered_once_and_its_gradient_reduced_once(arrays):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        text = str(chunked(5, mesh).lower(*place(arrays, mesh)).compile().as_text())
    of_table = [
        match[1]
        for match in re.finditer(
            rf"= f32\[{V // 2},\d+\]\S* (all-gather|reduce-scatter|all-reduce)\(.*", text
        )
        if "replica_groups={{0},{1}" not in match[0]  # a reduction over groups of one does nothing
    ]
    assert sorted(of_table) == ["all-gather", "reduce-scatter"]


@pytest.mark.parametrize(
    ("num_tokens", "most", "platform", "length"),
    [
        (1024, 79, "cpu", 79),
        (1024, 79, "tpu", 80),  # whole tiles
        (1024, 316, "tpu", 256),
        (1000, 334, "gpu", 336),
        (1000, 1000, "tpu", 1000),  # a single chunk is as long as the row
        (20, 7, "tpu", 7),  # short ones would be much longer
    ],
)
def test_long_chunks_are_whole_tiles_on_accelerators(num_tokens, most, platform, length):
    assert chunk_length(num_tokens, most, platform) == length


def test_accelerators_have_larger_chunks():
    bytes_a_token = 4 * 8 * 50_304
    assert tokens_of_chunk(bytes_a_token, "gpu") // tokens_of_chunk(bytes_a_token, "cpu") == 4
    assert tokens_of_chunk(2**40, "tpu") == 1

"""cuDNN's attention beside a float64 reference and the XLA backend: values, gradients, what it refuses."""

import functools
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distances import distance, same_bits

from flaxmill.model.layers import attention as attention_module
from flaxmill.model.layers.attention import attention, xla_attention
from flaxmill.model.layers.visibility import Visibility

pytestmark = pytest.mark.gpu

# B batch, T tokens, N heads, K key-value heads, H head dim

CUSTOM_CALL = "cudnn$fmha"
# Relative distances from float64. Inputs are the same, but probabilities and their gradients are rounded to
# the compute dtype before each product: bfloat16 keeps 8 bits, up to 2e-3 for each rounding, float16 11.
TOLERANCES = {"bfloat16": (5e-3, 1.2e-2), "float16": (8e-4, 2e-3)}
BESIDE_XLA = 2  # XLA rounds at other places: neither should be much farther from the reference than the other


class Case(NamedTuple):
    """The shape of a call, and who sees whom."""

    documents: tuple[int, ...] | None = None
    """Lengths of a row's packed documents, the rest is padding; None: one document."""
    causal: bool = True
    window: int | None = None
    tokens: int = 256
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    dtype: str = "bfloat16"


PACKED = (100, 1, 60, 70)  # 25 of 256 tokens are padding
CASES = {
    "causal": Case(),
    "bidirectional": Case(causal=False),
    "packed causal": Case(PACKED),
    "packed bidirectional": Case(PACKED, causal=False),
    "padding alone in half of the row": Case((128,), causal=False),
    "causal window": Case(PACKED, window=37),
    "bidirectional window": Case(PACKED, causal=False, window=64),
    "window of two tokens": Case(window=2),
    "grouped heads": Case(PACKED, heads=8, kv_heads=2),
    "one key-value head": Case(heads=8, kv_heads=1),
    "head dim 128": Case(PACKED, head_dim=128),
    "head dim 40": Case(PACKED, head_dim=40),
    "200 tokens": Case((90, 100), tokens=200),
    "1002 tokens": Case((500, 400), tokens=1002, heads=2, kv_heads=2),
    "two tokens": Case(tokens=2),
    "float16": Case(PACKED, dtype="float16"),
    "float16 bidirectional": Case(PACKED, causal=False, dtype="float16"),
}


class Call(NamedTuple):
    """Queries, keys, values, the gradient of the output, and who sees whom."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    gradient: jax.Array
    visible: Visibility


def make_call(case: Case, batch_size: int = 2) -> Call:
    """A call on random numbers; its second row has the documents in the reverse order."""
    B, T, H = batch_size, case.tokens, case.head_dim
    shapes = [(B, T, heads, H) for heads in (case.heads, case.kv_heads, case.kv_heads, case.heads)]
    keys = jax.random.split(jax.random.key(T + H), len(shapes))
    arrays = [
        jax.random.normal(key, shape).astype(case.dtype) for key, shape in zip(keys, shapes, strict=True)
    ]
    lengths = case.documents or (T,)
    rows = [np.repeat(np.arange(len(order)) + 1, order) for order in (lengths, lengths[::-1])]
    documents_BT = np.stack([np.pad(rows[b % 2], (0, T - len(rows[b % 2]))) for b in range(B)])
    q, k, v, gradient = arrays
    visible = Visibility(jnp.asarray(documents_BT, jnp.int32), case.causal, case.window)
    return Call(q, k, v, gradient, visible)


def values_and_gradients(call: Call, attend: Any) -> list[jax.Array]:
    """The output, and the gradients of queries, keys and values."""
    scale = call.q.shape[-1] ** -0.5
    run = lambda q, k, v: attend(q, k, v, call.visible, scale=scale)  # noqa: E731
    out, pull = jax.vjp(run, call.q, call.k, call.v)
    return [out, *pull(call.gradient)]


def by_backend(backend: str, call: Call, *, deterministic: bool = False) -> list[jax.Array]:
    """The call, compiled for the GPU."""
    causal, window = bool(call.visible.causal), call.visible.window
    return compiled(backend, causal, window, deterministic)(*call[:4], call.visible.documents)


@functools.cache
def compiled(backend: str, causal: bool, window: int | None, deterministic: bool) -> Any:
    """A compiled function of a call's arrays."""

    def run(q, k, v, gradient, documents):
        call = Call(q, k, v, gradient, Visibility(documents, causal, window))
        return values_and_gradients(call, functools.partial(attention, backend=backend))

    return jax.jit(run, compiler_options={"xla_gpu_deterministic_ops": True} if deterministic else None)


def exact(call: Call) -> list[np.ndarray]:
    """The call in float64, on the CPU, by the XLA backend: a loop over visible keys checks that one."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        q, k, v, gradient = (jnp.asarray(np.asarray(x).astype(np.float64)) for x in call[:4])
        documents = jnp.asarray(np.asarray(call.visible.documents))
        upcast = Call(q, k, v, gradient, call.visible._replace(documents=documents))
        return [np.asarray(x) for x in values_and_gradients(upcast, xla_attention)]


@pytest.mark.parametrize("name", CASES)
def test_cudnn_equals_float64_and_is_no_worse_than_xla(name):
    call = make_call(CASES[name])
    wanted = exact(call)
    found = {backend: by_backend(backend, call) for backend in ("cudnn", "xla")}
    tolerances = TOLERANCES[CASES[name].dtype]
    failures = []
    for index, part in enumerate(("output", "dq", "dk", "dv")):
        of = {backend: distance(arrays[index], wanted[index]) for backend, arrays in found.items()}
        tolerance = tolerances[index > 0]
        print(f"{name}: {part} cudnn {of['cudnn']:.2e}, xla {of['xla']:.2e} from float64, bound {tolerance}")
        if not of["cudnn"] <= max(min(tolerance, BESIDE_XLA * of["xla"]), tolerance / 3):
            failures.append(part)
    assert not failures


@pytest.mark.parametrize("name", ["packed causal", "packed bidirectional", "causal window", "grouped heads"])
def test_no_bit_of_a_document_depends_on_another(name):
    case = CASES[name]
    call = make_call(case)
    others = np.asarray(call.visible.documents) != 3
    swap = lambda x: jnp.where(others[..., None, None], x, 7 * x[::-1])  # noqa: E731
    q, k, v, gradient = (swap(x) for x in call[:4])
    changed = Call(q, k, v, gradient, call.visible)
    before, after = (by_backend("cudnn", each, deterministic=True) for each in (call, changed))
    for part, x, y in zip(("output", "dq", "dk", "dv"), before, after, strict=True):
        assert same_bits(np.asarray(x)[others], np.asarray(y)[others]), part
        assert not same_bits(np.asarray(x)[~others], np.asarray(y)[~others]), part


def test_deterministic_kernels_repeat_every_bit():
    call = make_call(Case((500, 400), tokens=1024), batch_size=8)
    first = by_backend("cudnn", call, deterministic=True)
    for _ in range(3):
        for x, y in zip(first, by_backend("cudnn", call, deterministic=True), strict=True):
            assert same_bits(x, y)
    usual = [by_backend("cudnn", call) for _ in range(4)]
    same = [all(same_bits(x, y) for x, y in zip(usual[0], again, strict=True)) for again in usual[1:]]
    print(f"without xla_gpu_deterministic_ops {sum(same)} of {len(same)} repetitions had the same bits")


def runs_on_cudnn(call: Call, backend: str, **changes: Any) -> bool:
    """Whether the program that JAX hands to the compiler calls cuDNN."""
    arguments: dict[str, Any] = dict(scale=0.125, backend=backend) | changes
    run = lambda q, k, v: attention(q, k, v, call.visible, **arguments)  # noqa: E731
    return CUSTOM_CALL in jax.jit(run).lower(*call[:3]).as_text()


@pytest.mark.parametrize(
    "name", ["causal", "packed bidirectional", "causal window", "grouped heads", "float16"]
)
def test_auto_takes_cudnn_on_a_gpu(name, caplog):
    attention_module._log_fallback.cache_clear()
    assert runs_on_cudnn(make_call(CASES[name]), "auto")
    assert not runs_on_cudnn(make_call(CASES[name]), "xla")
    assert not caplog.records


REFUSED = {
    "float32": (Case(dtype="float32"), {}, "it needs bfloat16, not float32"),
    "odd tokens": (Case(tokens=255), {}, "it needs an even number of tokens, not 255"),
    "head dim 36": (Case(head_dim=36), {}, "multiple of 8 up to 128, not 36"),
    "head dim 256": (Case(head_dim=256), {}, "multiple of 8 up to 128, not 256"),
    "dropout": (Case(), {"dropout_rate": 0.1, "key": jax.random.key}, "it has no attention dropout"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cudnn_cannot_do_goes_to_xla_with_one_line(name, caplog):
    attention_module._log_fallback.cache_clear()
    case, changes, reason = REFUSED[name]
    changes = {key: value(0) if callable(value) else value for key, value in changes.items()}
    with caplog.at_level(logging.WARNING, logger="flaxmill.attention"):
        assert not runs_on_cudnn(make_call(case), "auto", **changes)
    assert [reason in record.getMessage() for record in caplog.records] == [True]


VISIBILITIES = {
    "rows of both directions": ({"causal": np.array([True, False])}, "differ in causality"),
    "prefix": ({"prefix": np.array([5, 9], np.int32)}, "see each other (objective=prefix_lm)"),
    "learned bias": ({"bias": np.zeros((4, 256, 256), np.float32)}, "no learned bias"),
    "cross-attention": ({"causal": False, "key_documents": np.ones((2, 256), np.int32)}, "cross-attention"),
}


@pytest.mark.parametrize("name", VISIBILITIES)
def test_masks_that_cudnn_lacks_go_to_xla_with_one_line(name, caplog):
    attention_module._log_fallback.cache_clear()
    fields, reason = VISIBILITIES[name]
    arrays = {key: jnp.asarray(x) if isinstance(x, np.ndarray) else x for key, x in fields.items()}
    call = make_call(Case(PACKED))
    call = call._replace(visible=call.visible._replace(**arrays))
    with caplog.at_level(logging.WARNING, logger="flaxmill.attention"):
        assert not runs_on_cudnn(call, "auto")
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    wanted = xla_attention(*call[:3], call.visible, scale=0.125)
    np.testing.assert_array_equal(attention(*call[:3], call.visible, scale=0.125), wanted)

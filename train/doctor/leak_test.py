"""Whether attention lets a token see what it must not: no change there may change anything here."""

# B batch, T query tokens, S key tokens, N heads, K key-value heads, H head dim

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.train.doctor.attention_backends import (
    HEAD_DIM,
    NUM_HEADS,
    NUM_KEY_HEADS,
    Backend,
    Case,
    compute_dtype,
    list_backends,
)
from flaxmill.train.doctor.findings import Finding

CHECK = "attention"

_PARTS = (0.3, 0.02, 0.38, 0.2, 0.1)
"""Shares of a row, of documents 1 to 4 and of padding; the second row has them in another order."""
_OUTPUTS = ("output", "gradient of the query", "gradient of the key", "gradient of the value")


class Leak(NamedTuple):
    """A token whose change must not have reached another, and did.

    Attributes:
      changed, reached: the row and the token of it.
      what: which result of the reached token differs.
    """

    case: Case
    what: str
    changed: tuple[int, int]
    reached: tuple[int, int]


class Result(NamedTuple):
    """What a backend did in a case.

    Attributes:
      is_blind: a change did not even reach the changed token itself.
      num_compared: results of single tokens that had to stay the same.
      is_repeatable: equal inputs gave equal gradients; else they are not compared.
    """

    leak: Leak | None
    is_blind: bool
    num_compared: int
    is_repeatable: bool


def check_attention(backends: Iterable[Backend] | None = None) -> Iterator[Finding]:
    """A line for each backend: its leaks, or what was compared, or why it cannot run here."""
    for backend in list_backends() if backends is None else backends:
        if backend.refusal is not None:
            yield Finding(CHECK, "remark", f"{backend.name}: not tried: {backend.refusal}")
            continue
        try:
            yield judge(backend)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # a compiler's refusal
            text = " ".join(str(error).split())[:300]
            yield Finding(CHECK, "wrong", f"{backend.name}: does not run: {text}", _avoid(backend))


def judge(backend: Backend) -> Finding:
    """Run all cases of a backend."""
    compared, repeatable = 0, True
    for case in backend.cases:
        result = run_case(backend, case)
        if result.leak is not None:
            what = f"{backend.name}: {describe_leak(result.leak, documents_of(backend.num_tokens))}"
            return Finding(CHECK, "wrong", what, _avoid(backend))
        if result.is_blind:
            what = f"{backend.name}: {case.name}: a token's own output does not depend on it"
            return Finding(CHECK, "wrong", what, _avoid(backend))
        compared += result.num_compared
        repeatable = repeatable and result.is_repeatable
    names = ", ".join(case.name for case in backend.cases)
    of = "outputs and gradients" if repeatable else "outputs (gradients differ from run to run here)"
    return Finding(CHECK, "ok", f"{backend.name}: no leak in {compared:,} {of} ({names})")


def describe_leak(leak: Leak, documents_BT: np.ndarray) -> str:
    """`causal: the output of token 3 (document 1) depends on token 9 (document 2)`."""
    (row, token), (other, reached) = leak.changed, leak.reached
    where = "" if row == other else " of another row"
    return (
        f"{leak.case.name}: the {leak.what} of token {reached} ({_document(documents_BT[other, reached])}) "
        f"depends on token {token} ({_document(documents_BT[row, token])}){where}"
    )


def _document(number: int) -> str:
    return f"document {number}" if number else "padding"


def _avoid(backend: Backend) -> str:
    return f"train without {backend.option}, and report this line"


def run_case(backend: Backend, case: Case) -> Result:
    """Change one token after the other, and compare every result that the change must not reach."""
    documents_BT = documents_of(backend.num_tokens)
    sees_BTS = _sees(documents_BT, case)
    # How many queries see both of two tokens: through them, keys and values reach each other's gradients.
    joined_BSS = np.einsum("BTS,BTs->BSs", *(sees_BTS.astype(np.float32),) * 2) > 0
    arrays = _draw(documents_BT.shape)

    @jax.jit
    def run(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, g_BTNH: jax.Array) -> list[jax.Array]:
        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return backend.attend(q, k, v, jnp.asarray(documents_BT), case)

        out_BTNH, pull = jax.vjp(attend, q_BTNH, k_BTKH, v_BTKH)
        return [out_BTNH, *pull(g_BTNH)]

    def results(*arrays: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(x.astype(jnp.float32)) for x in run(*(x.astype(compute_dtype()) for x in arrays))]

    before, again = results(*arrays), results(*arrays)
    is_repeatable = all(map(np.array_equal, before[1:], again[1:]))
    num_compared, is_blind = 0, False
    for row, token in _changes(documents_BT):
        after = results(*_changed(arrays, row, token))
        for number in range(4 if is_repeatable else 1):
            may_change_BT = np.zeros(documents_BT.shape, bool)
            may_change_BT[row] = (sees_BTS if number < 2 else joined_BSS)[row, :, token]
            differs_BT = ~(before[number] == after[number]).all((2, 3))
            is_blind |= number == 0 and not differs_BT[row, token]
            num_compared += int((~may_change_BT).sum())
            leaks = np.argwhere(differs_BT & ~may_change_BT)
            if len(leaks):
                reached = (int(leaks[0][0]), int(leaks[0][1]))
                leak = Leak(case, _OUTPUTS[number], (row, token), reached)
                return Result(leak, is_blind, num_compared, is_repeatable)
    return Result(None, is_blind, num_compared, is_repeatable)


def documents_of(num_tokens: int) -> np.ndarray:
    """int32 [2,T]: the documents of two rows; 0 is padding, at their ends."""
    orders = ([1, 2, 3, 4, 0], [1, 3, 2, 4, 0])
    rows = []
    for order in orders:
        lengths = [max(1, round(_PARTS[number - 1] * num_tokens)) for number in order[:-1]]
        lengths.append(num_tokens - sum(lengths))
        rows.append(np.repeat([*range(1, len(order)), 0], lengths))
    return np.asarray(rows, np.int32)


def _sees(documents_BT: np.ndarray, case: Case) -> np.ndarray:
    """bool [B,T,S]: who may see whom. Written apart from the model's own rule, which is under test."""
    B, T = documents_BT.shape
    causal_B = np.broadcast_to(np.asarray(case.causal), (B,))
    distance_TS = np.arange(T)[:, None] - np.arange(T)[None, :]
    seen_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
    seen_BTS = seen_BTS & ~(causal_B[:, None, None] & (distance_TS < 0))
    return seen_BTS if case.window is None else seen_BTS & (distance_TS < case.window)


def _changes(documents_BT: np.ndarray) -> Iterator[tuple[int, int]]:
    """Row and token of what is changed: the first and the last one of two documents, and of padding."""
    for row, documents_T in enumerate(documents_BT):
        for number in (1, 3, 0):
            places = np.flatnonzero(documents_T == number)
            yield from ((row, int(place)) for place in (places[0], places[-1]))


def _draw(shape: tuple[int, int]) -> list[np.ndarray]:
    """Queries, keys, values and the gradient of the output, from a standard normal distribution."""
    random = np.random.default_rng(0)
    heads = (NUM_HEADS, NUM_KEY_HEADS, NUM_KEY_HEADS, NUM_HEADS)
    return [random.standard_normal((*shape, number, HEAD_DIM), np.float32) for number in heads]


def _changed(arrays: list[np.ndarray], row: int, token: int) -> list[np.ndarray]:
    """The same with another query, key and value of one token, large ones, and the same gradient."""
    random, *new = np.random.default_rng(1), *(x.copy() for x in arrays[:3])
    for x in new:
        x[row, token] = 8 * random.standard_normal(x.shape[2:], np.float32)
    return [*new, arrays[3]]

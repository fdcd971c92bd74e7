"""The leak test finds what leaks, of each kind, and passes what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers.attention import xla_attention
from flaxmill.model.layers.visibility import Visibility
from flaxmill.train.doctor.attention_backends import (
    BOTH_SIDES,
    BY_ROW,
    CAUSAL,
    SCALE,
    WINDOW,
    Backend,
    list_backends,
)
from flaxmill.train.doctor.leak_test import check_attention, documents_of

TOKENS = 100


def backend(attend, *cases, refusal=None):
    return Backend("injected", "model.attention=injected", attend, cases or (CAUSAL,), TOKENS, refusal)


def judged(attend, *cases):
    (finding,) = check_attention([backend(attend, *cases)])
    return finding


def correct(q, k, v, documents, case):
    causal = case.causal if isinstance(case.causal, bool) else jnp.asarray(case.causal)
    return xla_attention(q, k, v, Visibility(documents, causal, case.window), scale=SCALE)


def crosses_documents(q, k, v, documents, case):
    return correct(q, k, v, jnp.where(documents == 2, 1, documents), case)


def reads_padding(q, k, v, documents, case):
    last = documents.max()
    return correct(q, k, v, jnp.where(documents == 0, last, documents), case)


def sees_later_tokens(q, k, v, documents, case):
    return correct(q, k, v, documents, BOTH_SIDES)


def sees_beyond_its_window(q, k, v, documents, case):
    return correct(q, k, v, documents, CAUSAL)


def mixes_rows(q, k, v, documents, case):
    return correct(q, k, v, documents, case) + 1e-6 * v.sum((0, 1)).mean()


def barely_leaks(q, k, v, documents, case):
    """A thousandth of a thousandth of the next token's value, which no tolerance would show."""
    return correct(q, k, v, documents, case) + 1e-6 * jnp.roll(v, -1, axis=1)


def leaks_in_the_gradient_alone(q, k, v, documents, case):
    @jax.custom_vjp
    def attend(q, k, v):
        return correct(q, k, v, documents, case)

    def forward(q, k, v):
        return jax.vjp(lambda q, k, v: correct(q, k, v, documents, case), q, k, v)

    def backward(pull, gradient):
        dq, dk, dv = pull(gradient)
        return dq, dk, dv + dv.mean(1, keepdims=True)

    attend.defvjp(forward, backward)
    return attend(q, k, v)


@pytest.mark.parametrize(
    ("attend", "case", "what"),
    [
        (
            crosses_documents,
            CAUSAL,
            "causal: the output of token 30 (document 2) depends on token 0 (document 1)",
        ),
        (reads_padding, BOTH_SIDES, "both sides: the output of token 70 (document 4) depends on token"),
        (
            sees_later_tokens,
            CAUSAL,
            "causal: the output of token 0 (document 1) depends on token 29 (document 1)",
        ),
        (
            sees_beyond_its_window,
            WINDOW,
            "causal window: the output of token 20 (document 1) depends on token 0",
        ),
        (
            sees_later_tokens,
            BY_ROW,
            "by row: the output of token 0 (document 1) depends on token 29 (document 1)",
        ),
        (mixes_rows, CAUSAL, "causal: the output of token 30 (document 2) depends on token 0 (document 1)"),
        (barely_leaks, CAUSAL, "causal: the output of token 99 (padding) depends on token 0 (document 1)"),
        (
            leaks_in_the_gradient_alone,
            CAUSAL,
            "causal: the gradient of the value of token 30 (document 2) depends",
        ),
    ],
)
def test_a_leak_is_wrong_and_names_both_tokens(attend, case, what):
    finding = judged(attend, case)
    assert (finding.check, finding.state) == ("attention", "wrong")
    assert finding.what.startswith(f"injected: {what}")
    assert finding.fix == "train without model.attention=injected, and report this line"


def test_a_leak_across_rows_alone_says_so():
    def reads_the_other_row(q, k, v, documents, case):
        return correct(q, k, v, documents, case) + 1e-6 * v[::-1]

    assert judged(reads_the_other_row).what.endswith("depends on token 0 (document 1) of another row")


def test_attention_without_a_leak_passes():
    finding = judged(correct, CAUSAL, BOTH_SIDES, WINDOW, BY_ROW)
    assert finding.state == "ok"
    assert finding.what.endswith("outputs and gradients (causal, both sides, causal window, by row)")


def test_attention_that_reads_nothing_does_not_pass():
    finding = judged(lambda q, k, v, documents, case: jnp.zeros_like(q))
    assert finding.state == "wrong"
    assert finding.what == "injected: causal: a token's own output does not depend on it"


def test_gradients_that_differ_from_run_to_run_are_not_compared():
    calls = iter(range(10**6))

    def noisy(q, k, v, documents, case):
        @jax.custom_vjp
        def attend(q, k, v):
            return correct(q, k, v, documents, case)

        def forward(q, k, v):
            return jax.vjp(lambda q, k, v: correct(q, k, v, documents, case), q, k, v)

        def backward(pull, gradient):
            noise = jax.pure_callback(
                lambda: np.float32(next(calls)),
                jax.ShapeDtypeStruct((), jnp.float32),
                vmap_method="sequential",
            )
            return tuple(x + noise for x in pull(gradient))

        attend.defvjp(forward, backward)
        return attend(q, k, v)

    finding = judged(noisy)
    assert finding.state == "ok"
    assert finding.what.endswith("outputs (gradients differ from run to run here) (causal)")


def test_what_cannot_run_is_said():
    (finding,) = check_attention([backend(correct, refusal="it needs a GPU and this is a cpu")])
    assert (finding.state, finding.what) == (
        "remark",
        "injected: not tried: it needs a GPU and this is a cpu",
    )

    def fails(q, k, v, documents, case):
        raise NotImplementedError("no kernel\nfor this")

    finding = judged(fails)
    assert (finding.state, finding.what) == ("wrong", "injected: does not run: no kernel for this")


def test_rows_hold_documents_in_another_order_and_padding():
    rows = documents_of(TOKENS)
    assert rows.shape == (2, TOKENS)
    for row in rows:
        assert set(row) == {0, 1, 2, 3, 4}
        assert row[-1] == 0
        assert (np.diff(row) != 0).sum() == 4  # each is in one piece
    assert (rows[0] != rows[1]).any()


def test_every_backend_is_listed():
    found = {one.name: one.refusal for one in list_backends()}
    assert list(found) == ["xla", "blocks", "ring", "cudnn", "splash, interpreted"]
    assert [name for name, refusal in found.items() if refusal] == ["cudnn"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_no_backend_of_this_machine_leaks(number):
    tried = [*list_backends()][number]
    (finding,) = check_attention([tried])
    assert finding.state == ("remark" if tried.refusal else "ok"), finding.what

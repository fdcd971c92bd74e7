import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params
from flaxmill.train.checkpoint.fit import check_fits
from flaxmill.train.checkpoint.manifest import join, named_leaves
from flaxmill.train.failures import CheckpointError
from flaxmill.train.optimizer.optimizers import OptimizerConfig, OptimizerName, make_optimizer

GPT = ModelConfig(
    num_layers=4, embed_dim=32, num_heads=4, vocab_size=400, max_positions=64, head="lm", causal=True
)
BERT = dataclasses.replace(GPT, head="mlm_nsp", causal=False, num_segments=2)


def state_of(config: ModelConfig, optimizer: OptimizerName = "adamw") -> dict[str, Any]:
    params = abstract_params(config)
    made = make_optimizer(OptimizerConfig(name=optimizer), params)
    return {"params": params, "optimizer": jax.eval_shape(made.init, params), "step": jnp.int32(0)}


def stored(state: Any) -> dict[str, Any]:
    leaves = named_leaves(state).items()
    return {join(path): {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in leaves}


def refusal(old: Any, new: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_fits(stored(old), named_leaves(new), "RUN/10")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_the_same_state_fits():
    check_fits(stored(state_of(GPT)), named_leaves(state_of(GPT)), "RUN/10")


def test_all_differences_are_listed():
    x = jnp.ones((2, 3))
    old = {"params": {"a": x, "b": x, "c": x, "e": x}, "step": jnp.int32(0)}
    new = {
        "params": {"a": jnp.ones((3, 3)), "b": x.astype(jnp.bfloat16), "d": x, "e": x},
        "step": jnp.int32(0),
    }
    assert refusal(old, new) == (
        "RUN/10 does not fit the model and optimizer: it lacks params/d; it also holds params/c; "
        "these differ: params/a (stored float32[2, 3], wanted float32[3, 3]), "
        "params/b (stored float32[2, 3], wanted bfloat16[2, 3]); use the configuration that wrote it"
    )


def test_long_lists_are_cut():
    x = jnp.ones(())
    message = refusal({"params": {}}, {"params": {f"x{number}": x for number in range(9)}})
    assert "it lacks params/x0, params/x1, params/x2, params/x3 and 5 more;" in message


BFLOAT16 = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), state_of(GPT))
CAUSES = {
    "optimizer": (
        state_of(GPT, "lion"),
        "all params fit: another optimizer? use the optimizer.* that wrote it",
    ),
    "dtype": (BFLOAT16, "only dtypes differ: use the precision that wrote it"),
    "head": (
        state_of(dataclasses.replace(GPT, tie_embeddings=False)),
        "only lm_head differ: another objective or model.head? use the one that wrote it",
    ),
    "vocabulary": (
        state_of(dataclasses.replace(GPT, vocab_size=700)),
        "another vocabulary (stored 512, wanted 768, padded)? use the tokenizer that wrote it",
    ),
    "positions": (
        state_of(dataclasses.replace(GPT, max_positions=128)),
        "other model.max_positions (stored 64, wanted 128)? use those that wrote it",
    ),
    "depth": (
        state_of(dataclasses.replace(GPT, num_layers=6)),
        "another model.num_layers (stored 4, wanted 6)? use the number that wrote it",
    ),
    "layers": (
        state_of(dataclasses.replace(GPT, layer_pattern=("global", "local", "local"), window=8)),
        "both have as many parameters: another layer layout? use the model.layer_pattern that wrote it",
    ),
    "width": (
        state_of(dataclasses.replace(GPT, embed_dim=64, mlp_dim=192)),
        "all params differ: another model? use the model.* that wrote it",
    ),
    "parts": (
        state_of(dataclasses.replace(GPT, use_bias=False, max_positions=128)),
        "use the configuration that wrote it",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_probable_cause_is_named(cause):
    other, expected = CAUSES[cause]
    assert refusal(state_of(GPT), other).endswith(f"; {expected}")


def test_heads_are_named_where_they_alone_differ():
    without = dataclasses.replace(BERT, head="mlm", pooler=None)
    assert refusal(state_of(BERT), state_of(without)).endswith(
        "; only nsp, pooler differ: another objective or model.head? use the one that wrote it"
    )


def test_every_group_of_params_is_a_head_or_the_model():
    from flaxmill.model.heads import HEAD_PARAMETERS

    found = set()
    for head, pooling in (("lm", {}), ("mlm_nsp", {}), ("classification", {"num_labels": 3})):
        config = dataclasses.replace(BERT, head=head, tie_embeddings=head != "lm", **pooling)
        found |= set(abstract_params(config))
    assert found - {"embed", "layers", "final_norm"} == set(HEAD_PARAMETERS)

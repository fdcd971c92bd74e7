"""The arithmetic of a step is counted, not guessed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from flaxmill.model import ModelConfig, abstract_params, apply, count_params
from flaxmill.model.params import merge
from flaxmill.train.metrics.flops import head_flops, peak_flops, recomputed_flops, step_flops
from flaxmill.train.optimizer.freezing import choose_trainable

GPT = ModelConfig(
    vocab_size=512,
    max_positions=64,
    num_layers=2,
    embed_dim=128,
    num_heads=4,
    causal=True,
    head="lm",
    scan_layers=False,
)
GATED = dataclasses.replace(GPT, num_kv_heads=2, gated_mlp=True, mlp_dim=192, tie_embeddings=False)


@pytest.mark.parametrize("config", [GPT, GATED], ids=["gpt", "grouped and gated"])
def test_the_forward_third_agrees_with_what_xla_counts(config):
    tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    forward = jax.jit(lambda params, tokens: apply(config, params, {"tokens": tokens})["logits"])
    cost = forward.lower(abstract_params(config), tokens).compile().cost_analysis()
    assert cost is not None
    # XLA also counts norms, softmax and activations: some percent at this width.
    assert step_flops(config, 4, 64).full / 3 == pytest.approx(cost["flops"], rel=0.06)


def test_a_step_of_lora_agrees_with_what_xla_counts():
    """Frozen matrices have no gradients; their inputs and the adapters have."""
    targets = ("query", "key", "value", "out", "up", "gate", "down")
    config = dataclasses.replace(GATED, lora_rank=4, lora_targets=targets)
    params = abstract_params(config)
    trained, frozen = choose_trainable((), params).split(params)
    tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)

    def loss(trained, frozen, tokens):
        return apply(config, merge(trained, frozen), {"tokens": tokens})["logits"].sum()

    cost = jax.jit(jax.value_and_grad(loss)).lower(trained, frozen, tokens).compile().cost_analysis()
    assert cost is not None
    # XLA leaves out what a sum as a loss makes constant, and counts norms, softmax and activations.
    assert step_flops(config, 4, 64).full == pytest.approx(cost["flops"], rel=0.1)
    assert step_flops(config, 4, 64).full < 0.8 * step_flops(GATED, 4, 64).full


def test_a_long_model_costs_six_flops_a_weight_and_token():
    config = ModelConfig(vocab_size=128, max_positions=8, num_layers=8, embed_dim=512, causal=True, head="lm")
    # Attention over 8 tokens and biases are small beside the weights: below 2 %.
    assert step_flops(config, 16, 8).full == pytest.approx(6 * count_params(config) * 16 * 8, rel=0.02)


def test_a_wide_model_with_experts_costs_six_flops_an_active_weight_and_token():
    config = ModelConfig(
        vocab_size=128, max_positions=8, num_layers=8, embed_dim=512, mlp_dim=512, causal=True, head="lm",
        num_experts=16, experts_per_token=3, shared_experts=1, moe_every=2, gated_mlp=True,
    )  # fmt: skip
    active = count_params(config, active=True)
    assert active < 0.4 * count_params(config)
    # As above: attention over 8 tokens and biases are below 2 %.
    assert step_flops(config, 16, 8).full == pytest.approx(6 * active * 16 * 8, rel=0.02)
    dense = dataclasses.replace(
        config, num_experts=None, experts_per_token=2, shared_experts=0, moe_every=1, mlp_dim=4 * 512
    )
    routers = 3 * 2 * 16 * 8 * 4 * 512 * 16
    narrow = 3 * 2 * 16 * 8 * 4 * 3 * 512 * (4 * 512 - 512)  # the layers without experts: an MLP of 512
    assert step_flops(config, 16, 8).full == step_flops(dense, 16, 8).full + routers - narrow


def test_causal_attention_counts_half_of_the_pairs():
    both = step_flops(GPT, 4, 64)
    pairs = 3 * 4 * 4 * 64 * 64 * 128 * 2  # forward and backward, 4 FLOPs a pair, rows, pairs, width, layers
    assert both.full - both.causal == pairs / 2
    encoder = step_flops(dataclasses.replace(GPT, causal=False), 4, 64)
    assert encoder.full == encoder.causal == both.full


def test_a_head_on_few_places_costs_only_those():
    config = dataclasses.replace(GPT, head="mlm", causal=False)
    saved = step_flops(config, 4, 64).full - step_flops(config, 4, 64, predictions=10).full
    assert saved == 3 * 2 * 4 * (64 - 10) * (128 * 512 + 128 * 128)


def test_peaks_add_up_over_devices_and_are_unknown_for_a_cpu():
    assert peak_flops(["NVIDIA H100 80GB HBM3"] * 2) == 2 * 989e12
    assert peak_flops(["TPU v5 lite"]) == 197e12
    assert peak_flops(["NVIDIA B200"]) == 2250e12
    assert peak_flops(["TPU v5p"]) == peak_flops(["TPU v5"]) == 459e12
    assert peak_flops(["cpu"]) is None
    assert peak_flops(["NVIDIA H100 80GB HBM3", "cpu"]) is None


def counted(config: ModelConfig, *arrays: str) -> float:
    """FLOPs that XLA counts in the gradient of all logits, on 4 rows of 256 tokens."""
    batch = {name: jax.ShapeDtypeStruct((4, 256), jnp.int32) for name in ("tokens", *arrays)}
    weigh = jax.ShapeDtypeStruct((4, 256, config.padded_vocab_size), jnp.float32)

    def loss(params, batch, weigh):
        return (apply(config, params, batch)["logits"] * weigh).sum()

    # Before optimisation, which on a CPU may join a product with its copy in the backward pass.
    cost = jax.jit(jax.grad(loss)).lower(abstract_params(config), batch, weigh).cost_analysis()
    assert cost is not None
    return cost["flops"]


PARALLEL = dataclasses.replace(GATED, parallel_residual=True)
POST = dataclasses.replace(GPT, norm_position="post")
SEQ2SEQ = dataclasses.replace(GPT, encoder_layers=3, encoder_mlp_dim=256)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize(
    ("config", "arrays"),
    [(GPT, ()), (GATED, ()), (PARALLEL, ()), (POST, ()), (SEQ2SEQ, ("decoder_tokens",))],
    ids=["gpt", "grouped and gated", "parallel", "post-norm", "encoder-decoder"],
)
def test_what_is_computed_again_agrees_with_what_xla_counts(config, arrays, remat):
    # One wide head on long rows: XLA also counts softmax and norms, which are little beside such products.
    plain = dataclasses.replace(config, num_heads=1, num_kv_heads=1, max_positions=256)
    again = dataclasses.replace(plain, remat=remat)
    more = counted(again, *arrays) - counted(plain, *arrays)
    assert recomputed_flops(again, 4, 256).full == pytest.approx(more, rel=0.1)
    assert recomputed_flops(plain, 4, 256).full == 0


def test_an_encoder_decoder_counts_both_stacks_and_the_attention_between_them():
    # The encoder's length differs from the decoder's: what reads which is told apart.
    tokens = {name: jax.ShapeDtypeStruct((4, 64), jnp.int32) for name in ("tokens", "decoder_tokens")}
    tokens["decoder_tokens"] = jax.ShapeDtypeStruct((4, 24), jnp.int32)
    forward = jax.jit(lambda params, batch: apply(SEQ2SEQ, params, batch)["logits"])
    cost = forward.lower(abstract_params(SEQ2SEQ), tokens).compile().cost_analysis()
    assert cost is not None
    flops = step_flops(SEQ2SEQ, 4, 64, target_tokens=24)
    assert flops.full / 3 == pytest.approx(cost["flops"], rel=0.06)  # as above
    assert flops.causal < flops.full


def test_a_head_of_few_classes_costs_few_flops():
    config = dataclasses.replace(GPT, head="classification", num_labels=3, causal=False)
    assert head_flops(config, 4, 64) == 2 * 4 * (128 * 128 + 128 * 3)  # the pooler and the classifier, a row
    assert head_flops(dataclasses.replace(config, head="qa"), 4, 64) == 2 * 4 * 64 * 128 * 2

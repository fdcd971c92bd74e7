"""What a layer keeps is what JAX keeps, in the unit that a plan scales."""

import dataclasses

from planned_runs import named, small_gpt

from flaxmill.train.plan.activations import attention_is_fused, kept_by_layer

MODEL = named("llama3_8b").model
D, F, KV = 4096, 14_336, 1024
LOW = 2  # bytes of a bfloat16


def kept(remat: str, platform: str = "tpu", **changes):
    return kept_by_layer(dataclasses.replace(MODEL, remat=remat, **changes), platform, 8192)


def test_full_rematerialisation_keeps_the_input_alone():
    assert kept("full") == (D * LOW, 0, 0)


def test_dots_keep_the_input_and_the_products_that_gradients_need():
    # Query, key, value, gate and up are split by tensor parallelism; the last product is not needed.
    assert kept("dots") == ((D + D) * LOW, (D + 2 * KV + 2 * F) * LOW, 0)


def test_offloaded_tensors_wait_on_the_host_and_take_none_of_the_device():
    offloading = dataclasses.replace(MODEL, remat_tensors=("layer_input=offload", "mlp_up=offload"))
    assert kept_by_layer(offloading, "tpu", 8192) == (0, 0, 0)
    assert kept_by_layer(offloading, "tpu", 8192, on_host=True) == (D * LOW, F * LOW, 0)
    assert kept_by_layer(MODEL, "tpu", 8192, on_host=True) == (0, 0, 0)


def test_no_pairs_are_kept_where_attention_is_fused():
    assert kept("none").pairs == 0
    assert kept("none", attention="xla").pairs >= 32 * (4 + LOW)  # logits or probabilities in both dtypes
    assert kept("dots", attention="xla").pairs == 0


def test_tensor_parallelism_divides_what_lies_within_a_layer():
    whole, split, _ = kept("dots")
    assert kept("dots").row_bytes(100, tensor=4) == 100 * (whole + split / 4)
    assert kept("dots").row_bytes(100, tensor=4, sequence=4) == 100 * (whole + split) / 4


def test_masks_of_dropout_are_kept():
    plain, dropping = (kept_by_layer(small_gpt(dropout=rate).model, "cpu", 256) for rate in (0.0, 0.1))
    assert dropping.whole > plain.whole
    assert dropping.pairs > plain.pairs


def test_layers_that_attend_to_an_encoder_keep_more():
    model = small_gpt(remat="dots").model
    assert kept_by_layer(model, "tpu", 256, crosses=True).split > kept_by_layer(model, "tpu", 256).split


def test_alternating_layers_are_counted_as_their_mean():
    pattern = small_gpt(layer_pattern=("global", "local"), window=64).model
    assert kept_by_layer(pattern, "tpu", 256) == kept_by_layer(small_gpt().model, "tpu", 256)


def test_attention_is_fused_where_its_kernel_takes_it():
    assert attention_is_fused(MODEL, "tpu", 8192)
    assert attention_is_fused(MODEL, "gpu", 8192)
    assert attention_is_fused(MODEL, "cpu", 8192)  # in blocks
    assert not attention_is_fused(MODEL, "cpu", 256)
    assert not attention_is_fused(dataclasses.replace(MODEL, attention="xla"), "cpu", 8192)
    assert not attention_is_fused(MODEL, "tpu", 8192 + 64)
    assert not attention_is_fused(dataclasses.replace(MODEL, dtype="float32"), "gpu", 8192)
    assert not attention_is_fused(dataclasses.replace(MODEL, dropout=0.1), "tpu", 8192)


def test_each_expert_of_a_token_keeps_its_own_hidden_units():
    whole, split, _ = kept("dots", num_experts=8, experts_per_token=2)
    # Gate and up are kept for both experts. The input is kept once: what slots hold is taken from it again.
    expected = (D + 2 * KV + 2 * 2 * F) * LOW
    assert abs(split - expected) < 0.001 * expected  # weights and numbers of slots
    assert (D + D) * LOW <= whole < 1.01 * (D + D) * LOW


def test_layers_with_experts_and_without_are_counted_as_their_mean():
    def split(**changes):
        return kept_by_layer(small_gpt(**changes).model, "tpu", 256).split

    every, none = split(num_experts=4), split()
    assert abs(split(num_experts=4, moe_every=2) - (every + none) / 2) < 1e-6


def test_slots_for_the_tokens_of_other_devices_are_kept_too():
    model = dataclasses.replace(MODEL, remat="dots", num_experts=8, experts_per_token=2)
    alone, four, none = (kept_by_layer(model, "tpu", 8192, slots=slots) for slots in (1, 4, 0))
    assert four.split - none.split == 4 * (alone.split - none.split)
    assert alone.split - none.split == 2 * 2 * F * LOW
    assert four.whole == alone.whole

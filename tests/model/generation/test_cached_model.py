"""Decoding token by token from the layers' caches gives what reading all from scratch gives."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, apply, load_huggingface
from flaxmill.model.generation.cached_model import read_prompt, read_source, read_token
from flaxmill.model.generation.unrolled_model import UnrolledModel, unroll
from flaxmill.model.params import Params

pytestmark = pytest.mark.slow

LENGTHS = (3, 12, 7, 1)  # lengths of prompts; windows of the small models are 5
PADDED, STEPS = 12, 16  # so that local layers wrap around their window three times
PREFIX = "gpt2, prompts read both ways"
FAMILIES = (
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_neox_sequential",
    "llama",
    "llama3_rope",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "mixtral_window",
    "qwen3_moe",
    "qwen3_moe_every_second",
    "t5",
    "t5_v1_1",
    "marian",
    PREFIX,
)


class Loaded(NamedTuple):
    config: ModelConfig
    params: Params
    model: UnrolledModel


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, torch_reference):
    config, params = load_huggingface(torch_reference(request.param.partition(",")[0])[0])
    if request.param == PREFIX:
        config = dataclasses.replace(config, bidirectional_prefix=True)
    return Loaded(config, params, unroll(config, params))


@functools.partial(jax.jit, static_argnames="num_slots")
def _start(model, tokens_BP, first_B, source, num_slots):
    return read_prompt(model, tokens_BP, first_B, num_slots, source)


def _prompts():
    random = np.random.default_rng(0)
    return [random.integers(3, 100, length) for length in LENGTHS]


def test_logits_equal_those_from_scratch_at_every_token(loaded):
    config, params, model = loaded
    prompts, source, given = _prompts(), None, {}
    if config.encoder_layers is not None:
        mask_BS = np.arange(PADDED) < np.asarray(LENGTHS)[:, None]
        tokens_BS = np.stack([np.pad(prompt, (0, PADDED - len(prompt))) for prompt in prompts])
        given = {"tokens": tokens_BS, "mask": mask_BS.astype(np.int32)}
        source = jax.jit(read_source)(model, given["tokens"], given["mask"])
        prompts = [prompt[:1] for prompt in prompts]
    longest = max(map(len, prompts))
    first_B = np.asarray([longest - len(prompt) for prompt in prompts])
    tokens_BP = np.stack([np.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    logits_BV, cache = _start(model, tokens_BP, first_B, source, longest + STEPS)
    mask_BP = np.arange(longest) >= first_B[:, None]
    step = jax.jit(read_token)
    read = jax.jit(functools.partial(apply, config))
    full_BT = np.zeros((len(prompts), longest + STEPS), np.int32)
    full_BT[:, :longest] = tokens_BP
    cached = [logits_BV]
    random = np.random.default_rng(1)
    for number in range(STEPS):
        new_B = random.integers(3, 100, len(prompts))
        full_BT[:, longest + number] = new_B
        logits_BV, cache = step(model, jnp.asarray(new_B), cache, source)
        cached.append(logits_BV)
    mask_BT = np.concatenate([mask_BP, np.ones((len(prompts), STEPS))], axis=1).astype(np.int32)
    if source is None:
        batch = {"tokens": full_BT, "mask": mask_BT}
        if config.bidirectional_prefix:
            batch["prefix"] = np.full(len(prompts), longest, np.int32)
    else:
        batch = {**given, "decoder_tokens": full_BT, "decoder_mask": mask_BT}
    scratch_BTV = read(params, batch)["logits"][:, longest - 1 :]
    # Sums are taken in another order, and rotary angles of the same positions are equal.
    np.testing.assert_allclose(np.stack(cached, 1), scratch_BTV, atol=1e-4)


def test_local_layers_keep_their_window_alone(torch_reference):
    config, params = load_huggingface(torch_reference("gpt_neo")[0])
    model = unroll(config, params)
    _, cache = _start(model, np.ones((2, 12), np.int32), np.zeros(2, np.int32), None, 28)
    assert [layer.keys.shape[2] for layer in cache.layers] == [28, config.window, 28]

"""Decoding past the original context turns each token as transformers does: by the length at its reading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import GenerationConfig, Generator, load_huggingface
from flaxmill.model.generation.cached_model import read_prompt, read_token
from flaxmill.model.generation.unrolled_model import unroll

pytestmark = pytest.mark.slow

# The small models' original context (10 to 12 tokens) ends within the texts, before them, or after them.
PROMPT_LENGTHS = (4, 11, 12, 13, 30)
NEW_TOKENS = 20
MODELS = ("llama_yarn_rope", "llama_dynamic_rope", "llama_longrope", "gpt_neox_yarn_rope")
LIVELY = {"initializer_range": 0.3}  # so that texts do not repeat one token


@pytest.fixture(scope="module", params=MODELS)
def pair(request, torch_reference):
    directory, theirs = torch_reference(request.param, **LIVELY)
    return load_huggingface(directory), theirs


def prompts() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, 100, length).tolist() for length in PROMPT_LENGTHS]


def reference(theirs, prompt: list[int]):
    """The text that transformers writes for a prompt alone, and the logits of each of its tokens."""
    import torch

    tokens = torch.tensor([prompt])
    with torch.no_grad():
        theirs(torch.ones(1, 1, dtype=torch.long))  # forget the lengths that were seen before
        written = theirs.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    new = written.sequences[0, len(prompt) :].tolist()
    return new, torch.cat(written.logits).numpy()


def test_logits_of_every_token_equal_those_of_transformers(pair):
    (config, params), theirs = pair
    model = jax.jit(unroll, static_argnums=0)(config, params)
    start, go_on = jax.jit(read_prompt, static_argnames="num_slots"), jax.jit(read_token)
    for prompt in prompts():
        text, expected = reference(theirs, prompt)
        logits, cache = start(model, jnp.array([prompt]), jnp.zeros(1, jnp.int32), num_slots=64, source=None)
        found = [logits]
        for token in text[:-1]:
            logits, cache = go_on(model, jnp.array([token]), cache, None)
            found.append(logits)
        # Logits reach 20; float32 sums of another order differ by some 1e-6 of that.
        np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-4, rtol=1e-5)


def test_texts_in_a_batch_are_those_of_each_prompt_alone(pair):
    (config, params), theirs = pair
    options = GenerationConfig(max_new_tokens=NEW_TOKENS, end_ids=())
    texts = Generator(config, params).generate(prompts(), options)
    assert texts == [reference(theirs, prompt)[0] for prompt in prompts()]
    assert len({tuple(text) for text in texts}) == len(texts)

"""Properties of generated texts that hold for every model."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from flaxmill.model import GenerationConfig, Generator, ModelConfig, apply, generate, init_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.state import param_shardings

pytestmark = pytest.mark.slow

CONFIG = ModelConfig(
    vocab_size=101,
    max_positions=48,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    layer_pattern=("global", "local"),
    window=5,
    causal=True,
    head="lm",
    initializer_std=0.3,
)
PROMPTS = [[3, 14, 15, 92, 65], [35], [89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28], [3, 14, 15, 92, 65]]
SAMPLING = GenerationConfig(max_new_tokens=20, temperature=1.0, seed=7)


@functools.cache
def params(config=CONFIG):
    return jax.jit(lambda: init_params(config, jax.random.key(0)))()


_read = jax.jit(apply, static_argnums=0)


def logits_from_scratch(tokens, config=CONFIG, weights=None):
    """[T,V] after each of the tokens; the row is padded to a length that compiles once."""
    padded = np.asarray([[*tokens] + [0] * (48 - len(tokens))])
    logits = _read(config, params() if weights is None else weights, {"tokens": padded})["logits"]
    return np.asarray(logits[0, : len(tokens)], np.float64)


@pytest.fixture(scope="module")
def generator():
    return Generator(CONFIG, params())


def test_greedy_tokens_are_the_likeliest_from_scratch(generator):
    texts = generator.generate(PROMPTS, GenerationConfig(max_new_tokens=20))
    for prompt, text in zip(PROMPTS, texts, strict=True):
        best = logits_from_scratch([*prompt, *text]).argmax(-1)
        assert text == best[len(prompt) - 1 : -1].tolist()


def test_a_seed_gives_a_prompt_the_same_texts_in_any_batch(generator):
    together = generator.generate(PROMPTS, SAMPLING)
    alone = [generator.generate([prompt], SAMPLING)[0] for prompt in PROMPTS[:2]]
    assert together[:2] == alone
    assert together[0] == together[3]
    other = generator.generate(PROMPTS, dataclasses.replace(SAMPLING, seed=8))
    assert all(text != again for text, again in zip(together, other, strict=True))


def test_samples_of_a_prompt_differ_and_the_first_is_that_of_one_sample(generator):
    texts = generator.generate(PROMPTS[:2], dataclasses.replace(SAMPLING, num_samples=3))
    assert len(texts) == 6
    assert len({tuple(text) for text in texts}) == 6
    assert texts[::3] == generator.generate(PROMPTS[:2], SAMPLING)


def test_first_tokens_are_drawn_from_the_model_s_distribution(generator):
    num_samples = 4000
    options = GenerationConfig(max_new_tokens=1, temperature=0.7, top_k=6, num_samples=num_samples)
    drawn = np.bincount([text[0] for text in generator.generate(PROMPTS[:1], options)], minlength=101)
    logits = logits_from_scratch(PROMPTS[0])[-1]
    probs = np.exp((logits - logits.max()) / 0.7)
    probs[np.argsort(-probs)[6:]] = 0
    expected = num_samples * probs / probs.sum()
    kept = expected > 0
    assert not drawn[~kept].any()
    assert ((drawn - expected)[kept] ** 2 / expected[kept]).sum() < 20.5  # 99.9% of chi-square, 5 degrees


def test_streamed_tokens_are_those_of_the_whole_text(generator):
    pieces = list(generator.stream(PROMPTS, SAMPLING))
    assert len(pieces) > 1
    joined = [[token for piece in pieces for token in piece[row]] for row in range(len(PROMPTS))]
    assert joined == generator.generate(PROMPTS, SAMPLING)


def test_a_text_ends_with_its_end_token_and_others_go_on(generator):
    free = generator.generate(PROMPTS, SAMPLING)
    end = free[0][4]
    texts = generator.generate(PROMPTS, dataclasses.replace(SAMPLING, end_ids=(end,)))
    for text, whole in zip(texts, free, strict=True):
        length = whole.index(end) + 1 if end in whole else len(whole)
        assert text == whole[:length]


def test_an_ending_of_the_caller_cuts_the_text(generator):
    free = generator.generate(PROMPTS[:2], SAMPLING)
    ended = generator.generate(PROMPTS[:2], SAMPLING, lambda tokens: 3 if len(tokens) >= 3 else None)
    assert ended == [text[:3] for text in free]


def test_suppressed_tokens_are_never_chosen(generator):
    free = generator.generate(PROMPTS, GenerationConfig(max_new_tokens=8))
    common = tuple({token for text in free for token in text})
    texts = generator.generate(PROMPTS, GenerationConfig(max_new_tokens=8, suppressed_ids=common))
    assert not {token for text in texts for token in text} & set(common)


def test_beams_are_sorted_and_at_least_as_likely_as_the_greedy_text(generator):
    options = GenerationConfig(max_new_tokens=6, num_beams=4, num_samples=4, length_penalty=0.0)
    beams = generator.generate(PROMPTS[:1], options)
    scores = [_log_probability(PROMPTS[0], text) for text in beams]
    assert scores == sorted(scores, reverse=True)
    greedy = generator.generate(PROMPTS[:1], GenerationConfig(max_new_tokens=6))[0]
    assert scores[0] >= _log_probability(PROMPTS[0], greedy) - 1e-4


def _log_probability(prompt, text):
    logits = logits_from_scratch([*prompt, *text])[len(prompt) - 1 : -1]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(log_probs[np.arange(len(text)), text].sum())


def test_a_text_ends_where_the_learned_positions_end(generator):
    texts = generator.generate([PROMPTS[0]], GenerationConfig(max_new_tokens=100))
    assert len(texts[0]) == 48 - len(PROMPTS[0])


@pytest.mark.parametrize("beams", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_long_prompt_leaves_a_short_one_its_room(generator, beams):
    options = GenerationConfig(max_new_tokens=20, **beams)
    long = [1] * 44
    texts = generator.generate([long, PROMPTS[0]], options)
    assert [len(text) for text in texts] == [4, 20]
    assert texts == generator.generate([long], options) + generator.generate([PROMPTS[0]], options)


def test_a_model_of_both_objectives_generates_causally():
    both = dataclasses.replace(CONFIG, causal=False)
    options = GenerationConfig(max_new_tokens=5)
    assert generate(both, params(), PROMPTS, options) == generate(CONFIG, params(), PROMPTS, options)


def test_bfloat16_decodes_what_it_reads_from_scratch():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    text = generate(config, params(), PROMPTS[:1], GenerationConfig(max_new_tokens=1))[0]
    logits = logits_from_scratch(PROMPTS[0], config)[-1]
    assert logits.max() - logits[text[0]] < 0.05  # the two round differently


def test_adapters_are_read_as_in_training():
    config = dataclasses.replace(CONFIG, lora_rank=2)
    weights = jax.tree.map(lambda leaf: leaf + 0.1, params(config))  # lora_b begins at zero
    text = generate(config, weights, PROMPTS[:1], GenerationConfig(max_new_tokens=6))[0]
    best = logits_from_scratch([*PROMPTS[0], *text], config, weights).argmax(-1)
    assert text == best[len(PROMPTS[0]) - 1 : -1].tolist()
    assert text != generate(CONFIG, params(), PROMPTS[:1], GenerationConfig(max_new_tokens=6))[0]


SHARDED = [
    pytest.param({}, id="greedy"),
    pytest.param({"num_beams": 2}, id="beams"),
    pytest.param({"temperature": 1.0, "top_k": 20, "num_samples": 2}, id="samples"),
]


@pytest.mark.parametrize("options", SHARDED)
@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_a_mesh_changes_no_text(kind, options):
    config = CONFIG
    if kind == "encoder_decoder":
        config = dataclasses.replace(
            CONFIG, encoder_layers=2, positions="relative", layer_pattern=(), window=None, decoder_start_id=0
        )
    chosen = GenerationConfig(max_new_tokens=12, **options)
    expected = generate(config, params(config), PROMPTS[:3], chosen)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(params(config), param_shardings(config, mesh))
    with jax.set_mesh(mesh):
        assert generate(config, placed, PROMPTS[:3], chosen) == expected


def test_an_encoder_cannot_generate_and_says_so():
    with pytest.raises(ValueError, match=r"model.head=mlm predicts no next token"):
        Generator(dataclasses.replace(CONFIG, head="mlm", causal=False), {})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there is no prompt"),
        ([[1], []], "prompt 1 is empty"),
        ([[1, 101]], "outside the model's vocabulary of 101"),
        ([[1] * 48], "prompt 0 of 48 tokens leaves no room in model.max_positions=48"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(generator, prompts, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 must be 0"),
        ({"temperature": float("nan")}, "temperature=nan must be 0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"num_beams": 2, "temperature": 1.0}, "num_beams=2 draws nothing"),
        ({"top_k": 5}, "top_k=5 limits the tokens to draw from"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p=1.5 must be above 0"),
        ({"num_samples": 2}, "num_samples=2 texts would be alike"),
        ({"length_penalty": 2.0}, "belong to beam search"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be a positive number"),
        ({"seed": -1}, "seed=-1 must be in"),
    ],
    ids=str,
)
def test_options_that_contradict_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**fields)

"""A prompt is read as training framed it, and a text ends as the model's files say."""

import json

import jax
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.vocabulary.training import make_tokenizer
from flaxmill.model import GenerationConfig, ModelConfig, generate, init_params, save_huggingface
from flaxmill.train.inference.text_generation import stream_texts, write_texts
from flaxmill.train.inference.text_model import load_text_model, make_reader, with_decoder_start

pytestmark = pytest.mark.slow

DECODER = ModelConfig(
    vocab_size=258, max_positions=64, num_layers=1, embed_dim=16, num_heads=2, causal=True, head="lm"
)
TRANSLATOR = ModelConfig(
    vocab_size=258,
    num_layers=1,
    encoder_layers=1,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    positions="relative",
    norm="rmsnorm",
    activation="relu",
    use_bias=False,
    attention_scale=1.0,
    scale_head=True,
    initializer="normal",
    initializer_std=0.5,
    norm_epsilon=1e-6,
    causal=True,
    head="lm",
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(DataConfig(tokenizer="bytes"), None, print)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def translator(tokenizer, tmp_path_factory):
    """The directory of a T5 with a tokenizer, and its parameters."""
    directory = tmp_path_factory.mktemp("t5")
    params = jax.jit(lambda: init_params(TRANSLATOR, jax.random.key(0)))()
    save_huggingface(directory, TRANSLATOR, params, tokenizer_json=tokenizer.to_json())
    return directory, params


def test_a_plain_prompt_is_its_ids_alone(tokenizer):
    assert make_reader(DECODER, tokenizer)("ab") == tokenizer.encode("ab")


def test_a_prompt_of_sequence_to_sequence_has_the_separator_behind_it(tokenizer):
    assert make_reader(DECODER, tokenizer, separator=" => ")("ab") == tokenizer.encode("ab => ")


def test_a_source_is_closed(tokenizer):
    assert make_reader(TRANSLATOR, tokenizer)("ab") == [
        *tokenizer.encode("ab"),
        tokenizer.closing_id,
    ]


def test_a_decoder_starts_as_in_training(tokenizer):
    config = with_decoder_start(TRANSLATOR, tokenizer)
    assert config.decoder_start_id == tokenizer.closing_id  # it has no pad token
    assert with_decoder_start(DECODER, tokenizer) == DECODER


def test_an_encoder_decoder_writes_what_its_tokens_say(translator, tokenizer):
    directory, params = translator
    model = load_text_model(directory)
    options = GenerationConfig(max_new_tokens=6)
    written = write_texts(model, ["a source", "b"], options)
    sources = [[*tokenizer.encode(text), tokenizer.closing_id] for text in ("a source", "b")]
    assert written.tokens == generate(model.config, params, sources, options)
    assert written.texts == [tokenizer.decode(tokens) for tokens in written.tokens]


def test_streamed_text_is_the_whole_text(translator):
    model = load_text_model(translator[0])
    options = GenerationConfig(max_new_tokens=40, temperature=1.0, end_ids=(), num_samples=3)
    # Random bytes: halves of characters, which must not be printed before they are whole.
    pieces = list(stream_texts(model, ["a"], options, ("e",)))
    joined = ["".join(piece[row] for piece in pieces) for row in range(3)]
    assert joined == write_texts(model, ["a"], options, ("e",)).texts
    assert not any("e" in text for text in joined)


def test_generation_settings_decide_what_ends_and_what_is_never_chosen(translator, tokenizer):
    directory, _ = translator
    settings = {"eos_token_id": [7, 9], "bad_words_ids": [[5], [6, 8]], "suppress_tokens": [11]}
    (directory / "generation_config.json").write_text(json.dumps(settings | {"forced_eos_token_id": 7}))
    model = load_text_model(directory)
    assert model.decoding == {"end_ids": (7, 9), "suppressed_ids": (5, 11), "forced_end": True}
    tokens = write_texts(model, ["a"], GenerationConfig(max_new_tokens=3)).tokens[0]
    assert tokens[-1] in (7, 9)

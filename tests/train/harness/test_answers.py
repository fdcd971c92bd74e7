"""Answers: settings of tasks in this package's words, and texts that end where they should."""

import pytest
from random_models import MAX_POSITIONS, causal_directory

from flaxmill.model import GenerationConfig
from flaxmill.train.harness.answers import Request, read_decoding, write_answers
from flaxmill.train.inference.text_generation import write_texts
from flaxmill.train.inference.text_model import load_text_model


@pytest.mark.parametrize(
    ("settings", "options", "stop"),
    [
        ({}, dict(max_new_tokens=256), ()),
        ({"until": "\n", "max_gen_toks": 5}, dict(max_new_tokens=5), ("\n",)),
        ({"until": ["a", "", "b"], "max_new_tokens": 7}, dict(max_new_tokens=7), ("a", "b")),
        ({"do_sample": False, "temperature": 0.8, "top_p": 0.9}, dict(max_new_tokens=256), ()),
        ({"do_sample": True}, dict(max_new_tokens=256, temperature=1.0), ()),
        (
            {"temperature": 0.5, "top_k": 4, "top_p": 1.0, "min_p": 0.1},
            dict(max_new_tokens=256, temperature=0.5, top_k=4, min_p=0.1),
            (),
        ),
        ({"num_beams": 2, "top_k": 0}, dict(max_new_tokens=256, num_beams=2), ()),
    ],
)
def test_settings_are_read(settings, options, stop):
    assert read_decoding(settings) == (GenerationConfig(**options), stop)


def test_an_unknown_setting_is_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"^gen_kwargs penalty_alpha=0\.6 is not known; leave it out, or use until"
    ):
        read_decoding({"penalty_alpha": 0.6})


@pytest.fixture(scope="module")
def model():
    return load_text_model(causal_directory())


TEXTS = ["the cat", "a", "one two three four", "the", "two words"]


@pytest.mark.slow
def test_texts_come_in_order_whatever_the_batches(model):
    settings = {"max_gen_toks": 4}
    alone = [write_texts(model, [text], GenerationConfig(max_new_tokens=4)).texts[0] for text in TEXTS]
    assert write_answers(model, [Request(text, settings) for text in TEXTS], 2) == alone
    stop = alone[0][1]
    mixed = [
        Request(text, settings | ({"until": [stop]} if number == 0 else {}))
        for number, text in enumerate(TEXTS)
    ]
    assert write_answers(model, mixed, 16) == [alone[0][:1], *alone[1:]]


@pytest.mark.slow
def test_a_long_context_loses_its_beginning(model):
    end = " ".join(["one two"] * 60)
    tokens = model.read(end)
    assert len(tokens) > MAX_POSITIONS
    kept = model._replace(read=lambda text: tokens[-(MAX_POSITIONS - 4) :])
    expected = write_texts(kept, [end], GenerationConfig(max_new_tokens=4)).texts
    assert write_answers(model, [Request(end, {"max_gen_toks": 4})], 1) == expected


def test_more_new_tokens_than_the_model_reads_are_refused(model):
    with pytest.raises(
        ValueError, match=r"^max_gen_toks=256 leaves no room in the 96 tokens that the model reads; give less"
    ):
        write_answers(model, [Request("a", {})], 1)

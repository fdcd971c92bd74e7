"""Model does in Python what the commands do."""

import json

import numpy as np
import pytest
from small_text_models import save_model
from small_tokenizers import draw_texts, theirs

from flaxmill.train import Model

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

TEXTS = draw_texts(seed=5, num=5, longest=12)
LABELS = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}


def logits(model, kind, *texts):
    with torch.no_grad():
        return model(**theirs(kind)(*texts, return_tensors="pt")).logits[0].numpy()


def test_vectors_are_those_that_the_command_writes(tmp_path, flaxmill):
    save_model(tmp_path / "bert", "bert", max_position_embeddings=70)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    flags = ("--data", tmp_path / "texts.txt", "--output", tmp_path / "e.npy")
    assert flaxmill("embed", tmp_path / "bert", *flags)[0] == 0
    model = Model.load(tmp_path / "bert")
    np.testing.assert_array_equal(model.embed(TEXTS), np.load(tmp_path / "e.npy"))
    assert model.embed(TEXTS, pooling="max").shape == (5, model.config.embed_dim)
    assert model.embed([]).shape == (0, model.config.embed_dim)


def test_texts_and_scores_are_those_of_the_commands(tmp_path, flaxmill):
    save_model(tmp_path / "gpt", "gpt2", n_positions=100)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    model = Model.load(tmp_path / "gpt")
    flags = ("--max-new-tokens", 5, "--temperature", 0, "--json")
    written = json.loads(flaxmill("generate", tmp_path / "gpt", *TEXTS[:2], *flags)[1])
    assert model.generate(TEXTS[:2], max_new_tokens=5, temperature=0) == written["text"]
    out = flaxmill("score", tmp_path / "gpt", "--data", tmp_path / "texts.txt", "--json")[1]
    scores = [score.log_probability for score in model.score(TEXTS)]
    assert scores == [text["log_probability"] for text in json.loads(out)["texts"]]


def test_a_classifier_answers_for_rows_and_for_strings(tmp_path):
    theirs_ = save_model(tmp_path, "bert_classification", max_position_embeddings=70, **LABELS)
    model = Model.load(tmp_path)
    answers = model.predict([{"text": TEXTS[0], "number": 1}, *TEXTS[1:]])
    for text, answer in zip(TEXTS, answers, strict=True):
        expected = torch.softmax(torch.tensor(logits(theirs_, "bert", text)), -1).numpy()
        assert answer.value == ["no", "maybe", "yes"][expected.argmax()]
        np.testing.assert_allclose([*answer.details["probabilities"].values()], expected, atol=1e-5)
    assert model.predict([]) == []


def test_a_tagger_answers_for_words(tmp_path):
    theirs_ = save_model(tmp_path, "bert_tokens", max_position_embeddings=70, **LABELS)
    model = Model.load(tmp_path)
    words = TEXTS[0].split()
    (answer,) = model.predict([{model_column(model): words}])
    encoded = theirs("bert")(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        classes = theirs_(**encoded).logits[0].argmax(-1).tolist()
    firsts = [encoded.word_ids().index(number) for number in range(len(words))]
    assert answer.value == [["no", "maybe", "yes"][classes[place]] for place in firsts]


def model_column(model):
    """The column of words, as the error of a row without it names it."""
    with pytest.raises(ValueError, match="is not a column of") as error:
        model.predict([{"other": []}])
    return str(error.value).split("'")[1]


def test_what_answers_nothing_is_refused(tmp_path):
    save_model(tmp_path, "gpt2", n_positions=70)
    with pytest.raises(ValueError, match="objective=causal, which answers nothing about a row"):
        Model.load(tmp_path).predict(TEXTS)


def test_a_row_without_the_column_is_refused(tmp_path):
    save_model(tmp_path, "bert_classification", max_position_embeddings=70)
    with pytest.raises(ValueError, match=r"data.text_column='text' is not a column of .*; it has body"):
        Model.load(tmp_path).predict([{"body": "The"}])

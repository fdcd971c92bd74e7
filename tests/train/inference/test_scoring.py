"""Log-probabilities equal those that transformers computes, text by text and token by token."""

import math
from typing import Any

import numpy as np
import pytest
from small_text_models import save_model
from small_tokenizers import draw_texts, theirs

from flaxmill.train.inference.loaded_model import load_model
from flaxmill.train.inference.scoring import score_texts

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

TEXTS = [*draw_texts(seed=3, num=9, longest=12), "", "The", " ".join(draw_texts(seed=4, num=4))]


def log_softmax(model, ids):
    """float32 [T,V] of one row."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1).numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_causal_models_score_every_token_but_the_first(tmp_path, name):
    settings: dict[str, Any] = {"n_positions" if name == "gpt2" else "max_position_embeddings": 70}
    model = save_model(tmp_path, name, **settings)
    scored = score_texts(load_model(tmp_path), TEXTS, batch_size=2)
    assert (scored.kind, scored.limit) == ("log_likelihood", 70)
    num_cut = 0
    for text, score in zip(TEXTS, scored.scores, strict=True):
        whole = theirs(name)(text)["input_ids"]
        ids, num_cut = whole[:70], num_cut + (len(whole) > 70)
        assert score.tokens == ids[1:]
        expected = log_softmax(model, ids)[np.arange(len(ids) - 1), ids[1:]] if len(ids) > 1 else []
        np.testing.assert_allclose(score.log_probabilities, expected, atol=2e-5)
        assert score.log_probability == pytest.approx(float(np.sum(expected)), abs=1e-4)
    assert scored.num_cut == num_cut > 0


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_masked_models_score_each_token_with_that_one_masked(tmp_path, name):
    model = save_model(tmp_path, name, max_position_embeddings=130)
    texts = TEXTS[:4]
    scored = score_texts(load_model(tmp_path), texts)
    assert scored.kind == "pseudo_log_likelihood"
    tokenizer = theirs(name)
    for text, score in zip(texts, scored.scores, strict=True):
        ids = tokenizer(text)["input_ids"]
        expected = []
        for place in range(1, len(ids) - 1):
            masked = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
            expected.append(log_softmax(model, masked)[place, ids[place]])
        assert score.tokens == ids[1:-1]
        np.testing.assert_allclose(score.log_probabilities, expected, atol=2e-5)


def test_the_loss_of_transformers_gives_the_perplexity(tmp_path):
    model = save_model(tmp_path, "gpt2", n_positions=100)
    (score,) = score_texts(load_model(tmp_path), TEXTS[:1]).scores
    ids = torch.tensor([theirs("gpt2")(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert score.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_text_without_scored_tokens_has_no_perplexity(tmp_path):
    save_model(tmp_path, "gpt2", n_positions=100)
    (score,) = score_texts(load_model(tmp_path), [""]).scores
    assert (score.tokens, score.log_probability, score.perplexity) == ([], 0.0, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [("t5", "is an encoder-decoder"), ("bert_encoder", "has the head none, which predicts no tokens")],
)
def test_models_that_predict_no_text_are_refused(tmp_path, name, said):
    save_model(tmp_path, name)
    with pytest.raises(ValueError, match=said):
        score_texts(load_model(tmp_path), TEXTS)

"""Vectors equal those of sentence-transformers, for every family of models and every module."""

import json
import warnings

import numpy as np
import pytest
from small_text_models import save_model
from small_tokenizers import draw_texts

from flaxmill.model.huggingface.sentence_modules import read_sentence_modules
from flaxmill.train.inference.embedding import AS_STATED, EmbeddingOptions, embed_texts, load_embedder
from flaxmill.train.inference.packed_rows import LEAST_WIDTH

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

pytestmark = pytest.mark.slow

TEXTS = [*draw_texts(seed=1, num=30, longest=25), "", "The", *draw_texts(seed=2, num=3, longest=60)]
FAMILIES = {"bert_encoder": "bert", "roberta": "roberta", "gpt2": "gpt2", "llama": "llama"}
LONG = {"bert_encoder": 70, "roberta": 72, "gpt2": 70, "llama": 70}


def save(tmp_path, name="bert_encoder", *after, pooling="mean", **settings):
    """A directory as sentence-transformers saves it, and the vectors that it gives."""
    length = {"n_positions" if name == "gpt2" else "max_position_embeddings": LONG[name]}
    save_model(tmp_path / "body", name, **length, **settings)
    body = modules.Transformer(str(tmp_path / "body"))
    if body.tokenizer.pad_token is None:
        body.tokenizer.pad_token = body.tokenizer.eos_token
    model = sentence_transformers.SentenceTransformer(
        modules=[body, modules.Pooling(body.get_embedding_dimension(), pooling_mode=pooling), *after],
        device="cpu",
    )
    model.max_seq_length = 66
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(str(tmp_path / "saved"), create_model_card=False)
    return tmp_path / "saved", model


def embed(directory, options=AS_STATED, texts=TEXTS):
    return embed_texts(load_embedder(read_sentence_modules(directory), options), texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_vectors(tmp_path, name):
    directory, model = save(tmp_path, name)
    texts = TEXTS if name != "gpt2" else [text for text in TEXTS if text]  # it has no token for ""
    embedded = embed(directory, texts=texts)
    np.testing.assert_allclose(embedded.vectors, model.encode(texts), atol=1e-5)
    lengths = [len(ids) for ids in model.tokenizer(texts)["input_ids"]]
    assert embedded.num_cut == sum(length > 66 for length in lengths) > 0
    assert max(lengths) > LEAST_WIDTH > min(lengths)


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean", ["mean", "max"]])
def test_every_pooling_gives_the_same_vectors(tmp_path, pooling):
    directory, model = save(tmp_path, pooling=pooling)
    np.testing.assert_allclose(embed(directory).vectors, model.encode(TEXTS), atol=1e-5)


def test_projections_and_norms_follow(tmp_path):
    dense = modules.Dense(30, 7)
    directory, model = save(tmp_path, "bert_encoder", dense, modules.Normalize())
    embedded = embed(directory)
    assert embedded.vectors.shape == (len(TEXTS), 7)
    np.testing.assert_allclose(embedded.vectors, model.encode(TEXTS), atol=1e-5)


def test_a_prompt_and_lower_case_are_followed(tmp_path):
    directory, model = save(tmp_path, "roberta")
    body = json.loads((directory / "sentence_bert_config.json").read_text())
    (directory / "sentence_bert_config.json").write_text(json.dumps(body | {"do_lower_case": True}))
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    vectors = embed(directory, EmbeddingOptions(prompt="answer: ")).vectors
    np.testing.assert_allclose(vectors, model.encode(TEXTS, prompt="answer: "), atol=1e-5)


def test_options_change_what_the_files_say(tmp_path):
    directory, model = save(tmp_path, "bert_encoder", modules.Normalize())
    vectors = embed(directory, EmbeddingOptions(pooling="cls", normalize=False)).vectors
    model = sentence_transformers.SentenceTransformer(
        modules=[model[0], modules.Pooling(30, pooling_mode="cls")], device="cpu"
    )
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embed(directory).vectors, axis=1), 1, atol=1e-5)


def test_a_directory_without_these_files_gives_the_mean(tmp_path):
    save_model(tmp_path, "bert", max_position_embeddings=70)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]  # nothing then says which head there is
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    embedded = embed(tmp_path)
    np.testing.assert_allclose(embedded.vectors, model.encode(TEXTS), atol=1e-5)
    assert embedded.num_cut > 0, "texts are cut to the model's 70 positions"


def test_a_text_without_tokens_has_the_vector_zero(tmp_path):
    save_model(tmp_path, "gpt2", n_positions=70)
    vectors = embed(tmp_path, texts=["", "The", ""]).vectors
    assert vectors.any(1).tolist() == [False, True, False]


def test_neighbours_in_a_row_change_nothing(tmp_path):
    save_model(tmp_path, "bert", max_position_embeddings=70)
    together = embed(tmp_path).vectors
    alone = np.concatenate([embed(tmp_path, texts=[text]).vectors for text in TEXTS[:3]])
    np.testing.assert_allclose(together[:3], alone, atol=1e-6)


def test_an_encoder_decoder_is_refused(tmp_path):
    save_model(tmp_path, "t5")
    with pytest.raises(ValueError, match="is an encoder-decoder"):
        embed(tmp_path)

"""The contrastive loss is sentence-transformers' ranking loss of vectors that PyTorch computes one by one."""

import dataclasses

import jax
import numpy as np
import pytest
import tokenizers
from small_text_models import save_model
from task_files import TEXT

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.examples.match_rows import make_match_encoder, read_match
from flaxmill.data.files.rows import Row
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.show import describe_batch
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model import load_huggingface
from flaxmill.train.objectives.losses import combine, denominators, numerators

PAIRS = [("the quick fox", "jumps over a dog"), ("rain", "falls on stones"), ("lazy", "lazy dog while")]
PAIRS += [(TEXT, "quick"), ("over a lazy dog", TEXT[::-1])]
TEMPERATURE = 0.07


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random BERT with its tokenizer, as a directory and in PyTorch."""
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("model")
    return path, save_model(path, "bert").eval()


@pytest.fixture(scope="module")
def config(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    path.write_text("text,pair\n" + "".join(f"{first},{second}\n" for first, second in PAIRS))
    files = (str(path),)
    return DataConfig(
        files=files,
        valid_files=files,
        pair_column="pair",
        tokenizer=str(model[0]),
        sequence_length=40,
    )


@pytest.fixture(scope="module")
def batch(config, tmp_path_factory):
    """All pairs, and three rows of padding."""
    dataset = prepare(config, "contrastive", cache=tmp_path_factory.mktemp("cache"), log=lambda line: None)
    batches = Batches(dataset, "valid", config=config, objective="contrastive", batch_size=8, seed=0)
    return dataset, batches.batch(0)


def their_vectors(model, tokens, documents):
    """float64 [2,D]: the mean of what PyTorch computes for each text of a row alone."""
    import torch

    vectors = []
    for number in (1, 2):
        ids = torch.tensor(tokens[documents == number][None].astype(np.int64))
        with torch.no_grad():
            hidden = model.double()(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        vectors.append(hidden[0].mean(0).numpy())
    return np.stack(vectors)


@pytest.mark.slow
def test_the_loss_is_the_ranking_loss_of_sentence_transformers(model, batch):
    import torch
    from sentence_transformers.util import cos_sim

    path, theirs = model
    _, rows = batch
    vectors = [their_vectors(theirs, rows["tokens"][n], rows["documents"][n]) for n in range(len(PAIRS))]
    first, second = torch.tensor(np.stack(vectors)).unbind(1)
    scores = cos_sim(first, second) / TEMPERATURE
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(len(PAIRS)))
    right = (scores.argmax(1) == torch.arange(len(PAIRS))).double().mean()

    ours, params = load_huggingface(path, head="none")
    arrays = {name: jax.numpy.asarray(values) for name, values in rows.items()}
    found = numerators("contrastive", ours, params, arrays, max_predictions=None, temperature=TEMPERATURE)
    totals = denominators("contrastive", arrays)
    measured = combine("contrastive", 0.0, found, totals)
    assert float(measured["loss"]) == pytest.approx(float(expected), abs=1e-6)
    assert float(measured["accuracy"]) == pytest.approx(float(right))


def test_each_text_is_a_document_framed_alone(model, batch):
    dataset, rows = batch
    tokenizer = dataset.tokenizer
    for number, pair in enumerate(PAIRS[:3]):
        for document, text in enumerate(pair, start=1):
            places = rows["documents"][number] == document
            ids = rows["tokens"][number][places]
            assert ids[0] == tokenizer.cls_id
            assert ids[-1] == tokenizer.sep_id
            assert tokenizer.decode(ids) == text
            assert rows["positions"][number][places].tolist() == list(range(len(ids)))
    assert rows["weights"].tolist() == [1] * len(PAIRS) + [0] * 3
    shown = describe_batch(rows, tokenizer, rows=1)
    assert "first: [CLS] the quick fox [SEP]" in shown
    assert "second: [CLS] jumps over a dog [SEP]" in shown


def test_a_text_has_at_most_half_of_a_row(config, model):
    tokenizer = Tokenizer.load(model[0] / "tokenizer.json")
    long = read_match(Row({"text": f"{TEXT} {TEXT} {TEXT}", "pair": "fox"}, "row 1", "a"), config)
    encoded = make_match_encoder(config, tokenizer, ())([long], 0)
    assert encoded.num_cut == 1
    assert encoded.rows["first_length"].tolist() == [20]


def test_a_row_without_room_for_two_texts_is_refused(config, model, tmp_path):
    inner = tokenizers.Tokenizer.from_file(str(model[0] / "tokenizer.json"))
    cls, sep = (inner.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    single = "[CLS] [CLS] [CLS] $A [SEP]"
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    short = dataclasses.replace(config, sequence_length=8)
    with pytest.raises(ValueError, match=r"^data.sequence_length=8 is .* the 4 tokens around each"):
        make_match_encoder(short, tokenizer, ())

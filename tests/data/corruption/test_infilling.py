"""Fill-in-the-middle moves the middle of a document behind the rest, within its own places."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.corruption.infilling import infill
from flaxmill.data.draws import bits
from flaxmill.data.objectives import INFILL_TOKENS
from flaxmill.data.preparation.cache import prepare

PREFIX, MIDDLE, SUFFIX, END = 1, 2, 3, 4
MARKS = np.array([PREFIX, MIDDLE, SUFFIX])


def rows_of(lengths, width):
    """A row of documents, each a text of tokens numbered from 10 and an end token; 0 is padding."""
    tokens, documents = np.zeros(width, np.int64), np.zeros(width, np.int64)
    place = 0
    for number, length in enumerate(lengths):
        end = min(place + length, width)
        tokens[place:end] = 10 + np.arange(end - place)
        documents[place : end + 1] = number + 1
        tokens[end : end + 1] = END
        place = end + 1
    return tokens[None], documents[None]


def infilled(tokens, documents, rate=1.0, seed=0):
    keys = bits(seed, np.arange(len(tokens)))
    part = range(tokens.shape[1])
    return infill(tokens, documents, tokens >= 10, keys, rate=rate, marks=MARKS, part=part)


def put_back(text):
    """The text of one document, and whether its suffix came first."""
    assert text[0] == PREFIX
    suffix_mark, middle_mark = text.index(SUFFIX), text.index(MIDDLE)
    prefix, suffix = text[1:suffix_mark], text[suffix_mark + 1 : middle_mark]
    rest = text[middle_mark + 1 :]
    if prefix or not rest:
        return prefix + rest + suffix, False
    return rest + suffix, None  # with an empty prefix the two orders may be the same


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_every_text_can_be_put_back_but_for_its_last_three_tokens(lengths, seed):
    tokens, documents = rows_of(lengths, 80)
    moved = infilled(tokens, documents, seed=seed)
    is_text = tokens[0] >= 10
    np.testing.assert_array_equal(moved[0][~is_text], tokens[0][~is_text])  # end tokens and padding stay
    for number in range(1, documents.max() + 1):
        places = np.flatnonzero((documents[0] == number) & is_text)
        text = moved[0][places].tolist()
        if len(places) <= 3:
            assert text == tokens[0][places].tolist()
        else:
            assert put_back(text)[0] == tokens[0][places].tolist()[:-3]
            assert sorted(set(text) & {PREFIX, MIDDLE, SUFFIX}) == [PREFIX, MIDDLE, SUFFIX]


def test_the_rate_the_orders_and_the_cuts_are_those_asked_for():
    tokens, documents = rows_of([99], 100)
    tokens, documents = np.repeat(tokens, 20_000, axis=0), np.repeat(documents, 20_000, axis=0)
    moved = infilled(tokens, documents, rate=0.5)
    is_moved = moved[:, 0] == PREFIX
    # Five standard deviations of shares of 20,000 and of 10,000.
    assert abs(is_moved.mean() - 0.5) < 0.018
    np.testing.assert_array_equal(moved[~is_moved], tokens[~is_moved])
    moved = moved[is_moved]
    suffix_first = moved[:, 1] == SUFFIX
    # PSM with an empty prefix looks alike: a prefix is empty in 2 of 98 draws.
    assert abs(suffix_first.mean() - (0.5 + 0.5 * 2 / 98)) < 0.026
    psm = moved[~suffix_first]
    prefix = np.argmax(psm == SUFFIX, axis=1) - 1
    middle = 99 - 1 - np.argmax(psm == MIDDLE, axis=1)
    # Two uniform cuts leave three parts with a mean of a third of the 96 tokens each.
    assert abs(prefix.mean() - 32) < 2
    assert abs(middle.mean() - 32) < 2


def test_a_row_is_changed_alike_in_any_company():
    tokens, documents = (np.repeat(values, 9, axis=0) for values in rows_of([20, 30, 5], 64))
    together = infilled(tokens, documents, rate=0.7)
    keys = bits(0, np.arange(9))
    tokens, documents, keys = tokens[4:5], documents[4:5], keys[4:5]
    alone = infill(tokens, documents, tokens >= 10, keys, rate=0.7, marks=MARKS, part=range(64))
    np.testing.assert_array_equal(alone[0], together[4])


def config_of(corpus, **fields):
    return DataConfig(
        files=(str(corpus),), documents="blank_lines", sequence_length=64, vocab_size=400, **fields
    )


def test_a_causal_run_learns_from_moved_middles(corpus, tmp_path):
    config = config_of(corpus, fim_rate=0.5, packing="best_fit")
    dataset = prepare(config, "causal", cache=tmp_path)
    ids = [dataset.tokenizer.inner.token_to_id(name) or 0 for name in INFILL_TOKENS]
    assert ids == [400, 401, 402]  # after its vocabulary
    batches = Batches(dataset, "train", config=config, objective="causal", batch_size=64, seed=1)
    batch = batches.batch(2)
    part = batches.rows(2, 10, 20)
    for name in batch:
        np.testing.assert_array_equal(part[name], batch[name][10:20])
    num_documents = sum(len(np.unique(row[row > 0])) for row in batch["documents"])
    share = (batch["tokens"] == ids[0]).sum() / num_documents
    assert 0.25 < share < 0.75
    np.testing.assert_array_equal(
        batch["targets"][:, :-1][batch["weights"][:, :-1] > 0],
        batch["tokens"][:, 1:][batch["weights"][:, :-1] > 0],
    )
    config = config_of(corpus, packing="best_fit")
    plain = Batches(dataset, "train", config=config, objective="causal", batch_size=64, seed=1).batch(2)
    np.testing.assert_array_equal(plain["documents"], batch["documents"])
    assert not np.isin(plain["tokens"], ids).any()


def test_other_objectives_and_tokenizers_without_the_marks_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"^data\.fim_rate=0\.5 moves .*objective=mlm does not read"):
        prepare(config_of(corpus, fim_rate=0.5), "mlm", cache=tmp_path)
    plain = prepare(config_of(corpus), "causal", cache=tmp_path)
    config = config_of(corpus, fim_rate=0.5)
    with pytest.raises(ValueError, match=r"^data\.fim_rate=0\.5 needs <\|fim_prefix\|>, which the"):
        Batches(plain, "train", config=config, objective="causal", batch_size=4, seed=0)
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    shutil.copy(plain.directory / "tokenizer.json", loaded)
    config = config_of(corpus, fim_rate=0.5, tokenizer=str(loaded))
    with pytest.raises(ValueError, match=r"^objective=causal needs the tokens <\|fim_prefix\|>, which"):
        prepare(config, "causal", cache=tmp_path)


def test_a_loaded_tokenizer_may_have_the_marks_without_calling_them_special(corpus, tmp_path):
    plain = prepare(config_of(corpus), "causal", cache=tmp_path)
    inner = Tokenizer.from_str(plain.tokenizer.to_json())
    inner.add_tokens(list(INFILL_TOKENS))
    inner.save(str(tmp_path / "tokenizer.json"))
    config = config_of(corpus, fim_rate=1.0, tokenizer=str(tmp_path / "tokenizer.json"))
    dataset = prepare(config, "causal", cache=tmp_path)
    batches = Batches(dataset, "train", config=config, objective="causal", batch_size=8, seed=1)
    assert (batches.batch(0)["tokens"] == inner.token_to_id("<|fim_middle|>")).any(axis=1).all()


def test_a_rate_of_zero_names_the_dataset_that_was_there_before(corpus, tmp_path):
    plain = prepare(config_of(corpus), "causal", cache=tmp_path)
    assert "added_tokens" not in plain.settings
    assert prepare(config_of(corpus, fim_rate=0.5), "causal", cache=tmp_path).directory != plain.directory

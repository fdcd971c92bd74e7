"""A hundred thousand pairs and their masks have the statistics that Devlin et al. 2019 published.

Bounds are five standard deviations of a share, or chi-square's thousandth.
"""

import numpy as np
import pytest

from flaxmill.data.corruption.masking import mask_tokens
from flaxmill.data.draws import bits, make_draw, uniform
from flaxmill.data.text import pairs
from flaxmill.data.text.pairs import SentenceDocument, cut_pairs

NUM_PAIRS, LENGTH = 100_000, 128
NUM_DOCUMENTS, NUM_SENTENCES = 2000, 40
CLS, SEP, MASK, FIRST_WORD = 2, 3, 4, 5
# A token names its document; a few thousand words would do for masks.
VOCAB = FIRST_WORD + NUM_DOCUMENTS
IS_SPECIAL = np.arange(VOCAB) < FIRST_WORD


def share_bound(share, number):
    return 5 * np.sqrt(share * (1 - share) / number)


@pytest.fixture(scope="module")
def window():
    """Documents of 1 to 40 sentences of 1 to 40 tokens."""
    window = []
    for number in range(NUM_DOCUMENTS):
        num_sentences = 1 + int(uniform(1, number)[0] * NUM_SENTENCES)
        lengths = 1 + (uniform(2, number, np.arange(num_sentences)) * 40).astype(int)
        tokens = np.full(lengths.sum(), FIRST_WORD + number, np.int32)
        window.append(SentenceDocument(number, tokens, [0, *np.cumsum(lengths).tolist()]))
    return window


@pytest.fixture(scope="module")
def rows(window):
    """The stored rows of as many plans as make NUM_PAIRS."""
    plans, number = [], 0
    while number < NUM_PAIRS:
        plans.append(
            cut_pairs(
                window,
                seed=0,
                copy=len(plans),
                sequence_length=LENGTH,
                short_pair_probability=0.1,
                cls_id=CLS,
                sep_id=SEP,
            )
        )
        number += len(plans[-1]["label"])
    return {name: np.concatenate([plan[name] for plan in plans])[:NUM_PAIRS] for name in plans[0]}


@pytest.fixture(scope="module")
def masked(rows):
    """For each pair its tokens, their masked form, what was chosen, and its length."""
    tokens = rows["tokens"]
    length = rows["first_length"] + rows["second_length"]
    is_real = np.arange(LENGTH) < length[:, None]
    parts = [
        mask_tokens(
            tokens[part],
            is_real[part],
            IS_SPECIAL,
            mask_rate=0.15,
            mask_id=MASK,
            vocab_size=VOCAB,
            keys=bits(0, part),
        )
        for part in np.array_split(np.arange(NUM_PAIRS), 20)
    ]
    seen, chosen = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return tokens, seen, chosen, length


def test_fifteen_percent_of_a_row_are_masked(masked):
    _, _, chosen, length = masked
    counts = chosen.sum(1)
    np.testing.assert_array_equal(counts, np.maximum(1, np.rint(0.15 * length)))
    assert counts.max() <= 20  # max_predictions_per_seq


def test_specials_and_padding_are_never_masked(masked):
    tokens, seen, chosen, length = masked
    forbidden = (tokens < FIRST_WORD) | (np.arange(LENGTH) >= length[:, None])
    assert not (chosen & forbidden).any()
    assert (seen == tokens)[forbidden].all()


def test_the_masked_are_eighty_ten_ten(masked):
    tokens, seen, chosen, _ = masked
    seen, original = seen[chosen], tokens[chosen]
    # A random word is the mask, or the word itself, once in VOCAB each.
    by_chance = 0.1 / VOCAB
    for found, share in (((seen == MASK).mean(), 0.8), ((seen == original).mean(), 0.1)):
        assert abs(found - share - by_chance) < share_bound(share, len(seen))
    random = seen[(seen != MASK) & (seen != original)]
    counts = np.histogram(random, bins=20, range=(0, VOCAB))[0]
    expected = len(random) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 19 degrees of freedom


def test_no_random_second_sentence_is_of_the_same_document(rows):
    index = np.arange(NUM_PAIRS)
    first = rows["tokens"][index, rows["first_length"] - 2]
    second = rows["tokens"][index, rows["first_length"]]
    np.testing.assert_array_equal(first != second, rows["label"] == 1)


def test_random_seconds_are_one_half_and_what_lone_sentences_add(window, monkeypatch):
    """Without short targets and truncation, what was collected follows from where a pair begins."""
    monkeypatch.setattr(pairs, "_truncate", lambda first, second, *rest: (first, second))
    num_pairs = num_lone = num_random = 0
    for copy in range(12):
        for index, document in enumerate(window):
            ends, begin = np.array(document.ends), 0
            for pair in pairs.plan_pairs(window, index, LENGTH - 3, 0.0, make_draw(copy, index)):
                stop = min(np.searchsorted(ends, ends[begin] + LENGTH - 3), len(ends) - 1)
                assert pair.first[0] == ends[begin]
                num_pairs += 1
                num_lone += stop - begin == 1
                num_random += pair.label
                begin = int(np.searchsorted(ends, pair.first[1])) if pair.label else stop
    expected = num_lone + (num_pairs - num_lone) / 2
    assert num_pairs > NUM_PAIRS
    assert 0.5 < num_random / num_pairs < 0.65
    assert abs(num_random - expected) < 5 * np.sqrt((num_pairs - num_lone) / 4)


def test_a_tenth_of_the_documents_have_a_short_target_of_any_length():
    """Sentences of one token reach each target exactly, so the first pair of a document shows it."""
    document = SentenceDocument(0, np.zeros(400, np.int32), list(range(401)))
    window, most = [document] * 2, LENGTH - 3
    number = 50_000
    first = [next(pairs.plan_pairs(window, 0, most, 0.1, make_draw(7, i))) for i in range(number)]
    follows = [pair for pair in first if not pair.label]
    lengths = np.array([pair.second[1] - pair.first[0] for pair in follows])
    short = lengths[lengths < most]
    # Targets of 2 to `most` are drawn, so one in most - 1 of the short ones is full.
    share = 0.1 * (most - 2) / (most - 1)
    assert abs(len(short) / len(lengths) - share) < share_bound(share, len(lengths))
    counts = np.bincount(short, minlength=most)[2:]
    expected = len(short) / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 176.0  # 122 degrees of freedom
    # A has any number of the sentences but all of them.
    a = np.array([pair.first[1] - pair.first[0] for pair in follows])[lengths == most]
    counts = np.bincount(a, minlength=most)[1:most]
    expected = len(a) / (most - 1)
    assert ((counts - expected) ** 2 / expected).sum() < 178.0  # 123 degrees of freedom


def test_rows_are_full_but_for_short_targets_and_ends_of_documents(rows):
    length = rows["first_length"] + rows["second_length"]
    assert length.max() == LENGTH
    assert length.min() >= 5
    assert (length == LENGTH).mean() > 0.6
    # Both truncations take from the longer side, so neither side of a full row is empty.
    assert min((rows["first_length"] - 2).min(), (rows["second_length"] - 1).min()) >= 1

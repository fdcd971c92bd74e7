"""Signatures are those of the library datasketch, and estimate how alike two texts are."""

import sys

import datasketch
import numpy as np
import pytest

from flaxmill.data.duplicates.shingles import hash_shingles
from flaxmill.data.duplicates.signatures import NO_WORDS, sign


def some_text(seed, num_words=200):
    words = np.random.default_rng(seed).integers(0, 5000, num_words)
    return " ".join(f"w{word}" for word in words)


def test_the_library_makes_the_same_signatures():
    texts = ["", "one", "Two words.", some_text(0), "\n", some_text(1, 20_000), some_text(2)]
    hashes, counts = hash_shingles(texts)
    for signed, of_text in zip(sign(texts), np.split(hashes, np.cumsum(counts)[:-1]), strict=True):
        theirs = datasketch.MinHash(128, scheme="affine32", hashfunc=int)
        theirs.update_batch(of_text)
        assert (signed == theirs.digest()).all()


def test_texts_are_signed_the_same_in_any_company():
    texts = [some_text(seed, 30 * seed) for seed in range(40)]
    assert (sign(texts) == np.concatenate([sign([text]) for text in texts])).all()
    assert sign([]).shape == (0, 128)


def test_signatures_never_change():
    """Others would drop other documents of a corpus, under the name of the dataset that there is."""
    signed = sign(["The quick brown fox jumps over the lazy dog."])[0]
    assert signed[:4].tolist() == [318272746, 2071004663, 970048164, 574287864]


def test_texts_without_words_have_a_signature_of_their_own():
    assert (sign(["", " -- \n", "word"]) == NO_WORDS).all(1).tolist() == [True, True, False]


@pytest.mark.parametrize("num_changed", [1, 5, 20])
def test_the_share_of_equal_numbers_is_the_jaccard_similarity(num_changed):
    words = some_text(3, 1000).split()
    changed = list(words)
    for place in range(0, 50 * num_changed, 50):
        changed[place] = "changed"
    first, second = (set(hash_shingles([" ".join(one)])[0].tolist()) for one in (words, changed))
    similarity = len(first & second) / len(first | second)
    signed = sign([" ".join(words), " ".join(changed)])
    # Four standard deviations of a share of 128.
    assert (
        abs((signed[0] == signed[1]).mean() - similarity) < 4 * (similarity * (1 - similarity) / 128) ** 0.5
    )


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ValueError, match=r"datasketch.*`pip install 'flaxmill\[duplicates\]'`") as caught:
        sign(["a text"])
    assert "\n" not in str(caught.value)

"""A text's runs of words are those that can be read in it, whatever stands beside it."""

import re
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.duplicates.shingles import hash_shingles

texts_of_few_words = st.lists(
    st.lists(st.sampled_from(["a", "B", "c-d", "É", "東京", "\n", "."]), max_size=12)
)


def shingles_of(text):
    """A reference: letters and digits are words, and each Chinese character is one."""
    words = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text.lower())
    return [tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4)) if words]


@given(texts_of_few_words)
def test_hashes_are_equal_where_runs_of_words_are(lists):
    texts = [" ".join(one) for one in lists]
    hashes, counts = hash_shingles(texts)
    runs = [run for text in texts for run in shingles_of(text)]
    assert counts.tolist() == [len(shingles_of(text)) for text in texts]
    assert len(set(zip(hashes.tolist(), runs, strict=True))) == len(set(runs)) == len(set(hashes.tolist()))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_a_text_has_the_same_hashes_alone(texts):
    hashes, counts = hash_shingles(texts)
    alone = [hash_shingles([text]) for text in texts]
    assert (hashes == np.concatenate([one[0] for one in alone])).all()
    assert (counts == np.concatenate([one[1] for one in alone])).all()


def test_case_blanks_and_punctuation_make_no_difference():
    first, second = "The mill grinds:\n flax, oats and (some) Rye!", "the mill grinds flax oats  and some rye"
    assert (hash_shingles([first])[0] == hash_shingles([second])[0]).all()


def test_another_process_makes_the_same_hashes():
    text = "One two three, four five six: 七 восемь nine"
    program = (
        "import sys; from flaxmill.data.duplicates.shingles import hash_shingles; "
        "print(hash_shingles([sys.argv[1]])[0].tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, text], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str(hash_shingles([text])[0].tolist())

"""A word's tag is at its first piece, whatever the tokenizer does with blanks."""

import numpy as np
import pytest
from small_tokenizers import KINDS, TEXT, ours, theirs

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.tagged_rows import locate_words, make_tagged_encoder

LENGTH = 32
LABELS = ("O", "NAME", "VERB")
CONFIG = DataConfig(sequence_length=LENGTH)


def draw_sentences(num: int = 30) -> list[Example]:
    rng = np.random.default_rng(3)
    examples = []
    for number in range(num):
        words = tuple(rng.choice(TEXT.split(), rng.integers(1, 20)))
        examples.append(
            Example(words, [str(tag) for tag in rng.choice(LABELS, len(words))], {}, f"row {number}")
        )
    return examples


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_pieces_and_words_are_those_of_transformers_for_a_list_of_words(kind):
    examples = draw_sentences()
    expected = theirs(kind)(
        [list(example.texts) for example in examples],
        is_split_into_words=True,
        truncation=True,
        max_length=LENGTH,
    )
    rows, _ = make_tagged_encoder(CONFIG, ours(kind), LABELS)(examples, 0)
    for row, words in enumerate(locate_words(examples, CONFIG, ours(kind))):
        ids = expected["input_ids"][row]
        np.testing.assert_array_equal(rows["tokens"][row, : len(ids)], ids)
        their_words = expected.word_ids(row)
        is_first = [
            word is not None and word not in their_words[:place] for place, word in enumerate(their_words)
        ]
        first_pieces = [word if first else -1 for word, first in zip(their_words, is_first, strict=True)]
        np.testing.assert_array_equal(words[: len(ids)], first_pieces)
        assert (words[len(ids) :] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_that_is_not_cut_off_has_its_tag_at_its_first_piece(kind):
    tokenizer, examples = ours(kind), draw_sentences()
    rows, num_cut = make_tagged_encoder(CONFIG, tokenizer, LABELS)(examples, 0)
    for row, (example, words) in enumerate(
        zip(examples, locate_words(examples, CONFIG, tokenizer), strict=True)
    ):
        places = np.flatnonzero(words >= 0)
        found = words[places]
        # Words come in order, each once; only words at the end may be cut off.
        np.testing.assert_array_equal(found, np.arange(len(found)))
        assert len(found) == len(example.texts) or rows["length"][row] == LENGTH
        assert [LABELS[tag] for tag in rows["tags"][row, places]] == example.wanted[: len(found)]
        assert (np.delete(rows["tags"][row], places) == -1).all()
        # The pieces from one first piece to the next spell the word.
        text = rows["tokens"][row, : rows["length"][row]]
        for word, start, end in zip(found[:-1], places[:-1], places[1:], strict=True):
            spelled = tokenizer.decode(text[start:end]).strip()
            wanted = example.texts[word]
            if kind == "bert":
                spelled, wanted = spelled.replace(" ", ""), tokenizer.inner.normalizer.normalize_str(wanted)
            assert spelled == wanted
    assert 0 < num_cut < len(examples)


def test_without_tags_nothing_counts():
    (sentence,) = draw_sentences(1)
    rows, _ = make_tagged_encoder(CONFIG, ours("bert"), LABELS)([sentence._replace(wanted=None)], 7)
    assert (rows["tags"] == -1).all()
    assert rows["number"].tolist() == [7]


def test_an_unknown_tag_is_refused_with_those_known():
    (sentence,) = draw_sentences(1)
    tags = ["NAMES"] * len(sentence.texts)
    with pytest.raises(
        ValueError, match=r"^row 0: the label 'NAMES' is unknown; known are O, NAME, VERB; did you"
    ):
        make_tagged_encoder(CONFIG, ours("bert"), LABELS)([sentence._replace(wanted=tags)], 0)

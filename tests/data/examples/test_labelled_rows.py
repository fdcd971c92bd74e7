"""Rows of texts and pairs equal those of transformers' tokenizers."""

import json

import numpy as np
import pytest
import tokenizers
from small_tokenizers import KINDS, TEXT, directory_of, draw_texts, ours, theirs, write
from tokenizers import models

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.labelled_rows import make_labelled_encoder
from flaxmill.data.tokenization import Tokenizer

LENGTH = 24


def make_examples(*columns: list[str], wanted: object = "yes") -> list[Example]:
    return [
        Example(texts, wanted, {}, f"row {number} of a.csv")
        for number, texts in enumerate(zip(*columns, strict=True), start=1)
    ]


def encode(tokenizer: Tokenizer, examples: list[Example], first: int = 0, **fields):
    config = DataConfig(sequence_length=LENGTH, **fields)
    return make_labelled_encoder(config, tokenizer, ("no", "yes"))(examples, first)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_framed_and_cut_as_transformers_does(kind):
    texts = draw_texts(0)
    expected = theirs(kind)(texts, truncation=True, max_length=LENGTH)["input_ids"]
    rows, num_cut = encode(ours(kind), make_examples(texts))
    for row, ids in enumerate(expected):
        np.testing.assert_array_equal(rows["tokens"][row, : rows["length"][row]], ids)
        assert not rows["tokens"][row, rows["length"][row] :].any()
    untruncated = theirs(kind)(texts)["input_ids"]
    assert num_cut == sum(len(ids) > LENGTH for ids in untruncated) > 0


def test_a_vocabulary_alone_reads_as_transformers_bert_does(tmp_path):
    import transformers

    vocabulary = ours("bert").inner.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    texts, pairs = draw_texts(8), draw_texts(9)
    tokenize = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenize(texts, pairs, truncation=True, max_length=LENGTH)
    tokenizer = Tokenizer.load(tmp_path / "vocab.txt")
    rows, _ = encode(tokenizer, make_examples(texts, pairs), pair_column="pair")
    for row, ids in enumerate(expected["input_ids"]):
        np.testing.assert_array_equal(rows["tokens"][row, : len(ids)], ids)
        np.testing.assert_array_equal(rows["segments"][row, : len(ids)], expected["token_type_ids"][row])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt2"])
def test_of_a_pair_the_longer_text_is_cut_first_as_transformers_does(kind):
    texts, pairs = draw_texts(1), draw_texts(2)
    expected = theirs(kind)(
        texts, pairs, truncation="longest_first", max_length=LENGTH, return_token_type_ids=True
    )
    rows, _ = encode(ours(kind), make_examples(texts, pairs), pair_column="pair")
    for row, (ids, segments) in enumerate(
        zip(expected["input_ids"], expected["token_type_ids"], strict=True)
    ):
        length = rows["length"][row]
        np.testing.assert_array_equal(rows["tokens"][row, :length], ids)
        np.testing.assert_array_equal(rows["segments"][row, :length], segments)
    assert (rows["length"] <= LENGTH).all()


@pytest.mark.parametrize(
    ("separator", "between"), [("\n", "\n"), ("<|endoftext|>", "<|endoftext|>"), ("", "")]
)
def test_a_gpt_has_the_separator_between_the_texts_of_a_pair(separator, between):
    tokenizer = ours("gpt2")
    examples = make_examples(["The fox."], ["Who?"])
    rows, _ = encode(tokenizer, examples, pair_column="pair", separator=separator)
    ids = rows["tokens"][0, : rows["length"][0]]
    assert tokenizer.decode(ids, skip_specials=False) == f"The fox.{between}Who?"
    assert not rows["segments"].any()


def test_a_long_pair_of_a_gpt_keeps_its_separator():
    tokenizer = ours("gpt2")
    rows, num_cut = encode(
        tokenizer, make_examples([TEXT], [TEXT]), pair_column="pair", separator="<|endoftext|>"
    )
    assert (rows["tokens"][0] == tokenizer.end_id).sum() == 1
    assert (rows["length"].tolist(), num_cut) == ([LENGTH], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_a_text_spells_are_read_as_transformers_reads_them(kind):
    specials = [ours(kind).inner.id_to_token(id_) for id_ in sorted(ours(kind).special_ids)]
    texts = [f"The {special} fox {special}" for special in specials if special]
    expected = theirs(kind)(texts, truncation=True, max_length=LENGTH)["input_ids"]
    rows, _ = encode(ours(kind), make_examples(texts))
    for row, ids in enumerate(expected):
        np.testing.assert_array_equal(rows["tokens"][row, : len(ids)], ids)


def test_special_tokens_that_a_text_spells_stay_text_where_markup_is_off():
    tokenizer = ours("bert")
    rows, _ = encode(tokenizer, make_examples(["a [SEP] b [CLS]"]), markup=False)
    assert (rows["tokens"] == tokenizer.sep_id).sum() == 1
    assert (rows["tokens"] == tokenizer.cls_id).sum() == 1


def test_a_separator_that_the_tokenizer_cannot_encode_matters_to_pairs_alone():
    inner = tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("b", -1.0)], unk_id=None))
    rows, _ = encode(Tokenizer(inner), make_examples(["ab", "b"]))
    np.testing.assert_array_equal(rows["tokens"][:, :2], [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"data\.separator: the tokenizer cannot encode"):
        encode(Tokenizer(inner), make_examples(["a"], ["b"]), pair_column="pair")


def test_segments_are_given_where_the_tokenizer_gives_them(tmp_path):
    settings = json.loads((directory_of("bert") / "tokenizer_config.json").read_text())
    names = ["input_ids", "attention_mask"]
    write(tmp_path, ours("bert").reader(True), tokenizer_config=settings | {"model_input_names": names})
    pair = make_examples(["The fox"], ["the dog"])
    for tokenizer, is_told in ((ours("bert"), True), (Tokenizer.load(tmp_path), False)):
        rows, _ = encode(tokenizer, pair, pair_column="pair")
        assert rows["segments"].any() == is_told


def test_labels_are_numbered_and_unknown_ones_marked():
    texts = ["one", "two"]
    assert encode(ours("bert"), make_examples(texts), first=5).rows["label"].tolist() == [1, 1]
    assert encode(ours("bert"), make_examples(texts), first=5).rows["number"].tolist() == [5, 6]
    assert encode(ours("bert"), make_examples(texts, wanted=None)).rows["label"].tolist() == [-1, -1]
    numbers = make_examples(texts, wanted=0.25)
    assert encode(ours("bert"), numbers, label_type="number").rows["label"].tolist() == [0.25, 0.25]
    unknown = make_examples(texts, wanted=None)
    assert encode(ours("bert"), unknown, label_type="number").rows["label"].tolist() == [0.0, 0.0]


def test_a_label_that_training_did_not_have_is_refused_with_those_known():
    with pytest.raises(
        ValueError, match=r"^row 1 of a.csv: the label 'yet' is unknown; known are no, yes; did"
    ):
        encode(ours("bert"), make_examples(["one"], wanted="yet"))
    with pytest.raises(ValueError, match=r"known are no, yes; correct it, or name it in data.labels$"):
        encode(ours("bert"), make_examples(["one"], wanted="perhaps"))


def test_a_separator_longer_than_the_row_is_refused():
    with pytest.raises(ValueError, match=r"^data.sequence_length=24 has no room for texts beside the 40 "):
        encode(ours("gpt2"), make_examples(["a"], ["b"]), pair_column="pair", separator="\n" * 40)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"^row 1 of a.csv: the tokenizer finds no token in ''; delete it$"):
        encode(ours("gpt2"), make_examples([""]))

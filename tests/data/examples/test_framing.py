"""A tokenizer without a template frames texts as tokenizers of its kind do."""

import pytest
import tokenizers
from small_tokenizers import ours
from tokenizers import processors

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.framing import (
    document_frame,
    framed_json,
    leading_ids,
    make_framer,
    make_prompt_reader,
    make_prompter,
    separator_ids,
    truncate,
)
from flaxmill.data.tokenization import Tokenizer


def without_template(kind: str) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_str(ours(kind).to_json())
    inner.post_processor = processors.Sequence([])  # type: ignore[abstract, arg-type]
    return Tokenizer(inner)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_missing_template_is_that_of_the_kind(kind):
    expected, framer = (
        make_framer(ours(kind), "\n", markup=True),
        make_framer(without_template(kind), "\n", markup=True),
    )
    for pair in ("Who?", None):
        assert framer.encode("The fox.", pair).ids == expected.encode("The fox.", pair).ids
        assert framer.encode("The fox.", pair).type_ids == expected.encode("The fox.", pair).type_ids


def test_a_source_is_ended_where_no_template_ends_it():
    assert make_framer(ours("t5"), "", closes=True, markup=True).encode("fox").tokens[-1] == "</s>"
    bare = without_template("t5")
    assert make_framer(bare, "", markup=True).encode("fox").tokens[-1] != "</s>"
    assert (
        make_framer(bare, "", closes=True, markup=True).encode("fox").ids
        == make_framer(ours("t5"), "", markup=True).encode("fox").ids
    )


def test_the_tokenizer_itself_is_left_as_it_was():
    tokenizer = ours("bert")
    before = tokenizer.to_json()
    make_framer(tokenizer, "\n", markup=True).enable_truncation(8)
    make_prompter(tokenizer, "\n", markup=True).enable_truncation(8)
    assert tokenizer.to_json() == before


@pytest.mark.parametrize(
    ("kind", "leading"), [("bert", ["[CLS]"]), ("llama", ["<s>"]), ("gpt2", []), ("t5", [])]
)
def test_a_prompt_begins_as_the_template_does_and_ends_in_the_separator(kind, leading):
    tokenizer = ours(kind)
    assert [tokenizer.inner.id_to_token(id_) for id_ in leading_ids(tokenizer)] == leading
    separator = separator_ids(tokenizer, " = ")
    expected = [*leading_ids(tokenizer), *tokenizer.encode("The fox"), *separator]
    assert make_prompter(tokenizer, " = ", markup=True).encode("The fox").ids == expected


def test_a_cut_prompt_keeps_its_separator():
    prompter = make_prompter(ours("gpt2"), "\n", markup=True)
    prompter.enable_truncation(5)
    assert prompter.encode("The quick brown fox").ids[-1:] == ours("gpt2").encode("\n")


def test_a_separator_is_a_special_token_or_text_and_never_vanishes():
    bert, gpt = ours("bert"), ours("gpt2")
    assert separator_ids(bert, "[SEP]") == [bert.sep_id]
    assert separator_ids(bert, "\n") == [bert.sep_id]  # a WordPiece has no line ends
    assert separator_ids(gpt, "<|endoftext|>") == [gpt.end_id]
    assert separator_ids(gpt, "\n") == gpt.encode("\n")
    assert separator_ids(gpt, "") == []


@pytest.mark.parametrize(
    ("kind", "framing", "expected"),
    [
        ("bert", "template", "[CLS] . [SEP]"),
        ("bert", "end", "[CLS] . [SEP]"),
        ("roberta", "template", "<s> . </s>"),
        ("llama", "template", "<s> . </s>"),
        ("llama", "end", ". </s>"),
        ("gpt2", "template", ". <|endoftext|>"),
        ("t5", "template", ". </s>"),
        ("t5", "end", ". </s>"),
    ],
)
def test_a_document_is_framed_by_the_template_and_always_ended(kind, framing, expected):
    tokenizer = ours(kind)
    before, after = document_frame(tokenizer, framing)
    spelled = [tokenizer.inner.id_to_token(id_) for id_ in (*before, *after)]
    spelled.insert(len(before), ".")
    assert " ".join(map(str, spelled)) == expected


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("framing", ["template", "end"])
def test_a_prompt_begins_as_documents_did_in_training(kind, framing):
    tokenizer = ours(kind)
    ids = make_prompt_reader(tokenizer, framing, markup=True)("The fox")
    assert ids == [*document_frame(tokenizer, framing).before, *tokenizer.encode("The fox")]


def test_an_exported_tokenizer_frames_texts_as_training_did():
    llama, bare = ours("llama"), without_template("bert")
    assert framed_json(llama, "template") == llama.to_json()
    plain = tokenizers.Tokenizer.from_str(framed_json(llama, "end"))
    assert plain.encode("fox").ids == llama.encode("fox")
    framed = tokenizers.Tokenizer.from_str(framed_json(bare, "template"))
    assert framed.encode("fox", "dog").ids == ours("bert").inner.encode("fox", "dog").ids


def test_texts_lose_their_front_where_the_tokenizer_truncates_on_the_left():
    framer = make_framer(ours("bert"), "", markup=True)
    config = DataConfig(sequence_length=8)
    ids = ours("bert").encode("The quick brown fox jumps")
    truncate(framer, config, is_pair=False, side="right")
    assert framer.encode("The quick brown fox jumps").ids[1:-1] == ids[:6]
    truncate(framer, config, is_pair=False, side="left")
    assert framer.encode("The quick brown fox jumps").ids[1:-1] == ids[-6:]

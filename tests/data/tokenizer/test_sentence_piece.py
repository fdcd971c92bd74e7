"""A SentencePiece model that stands alone is read as the sentencepiece library reads it."""

import io

import pytest
import sentencepiece

from flaxmill.data.tokenization import Tokenizer

PROSE = (
    "The quick brown fox jumps over the lazy dog. A question has an answer in its context, or none at all! "
    "Café prices rose by 3.5% in 2024; who wrote that? Déjà vu: the answer is forty-two."
)
TEXTS = [
    *(
        PROSE,
        PROSE[::-1],
        PROSE.upper(),
        "",
        " ",
        "   ",
        " a",
        "  two  blanks  ",
        "tabs\tand\nlines",
        "\u2028",
    ),
    *("naïve 東京 🙂 \uff21\uff22 ½", "</s> <s> <unk> a</s>b", "<0x41> <0x0A>", "▁ a▁b", "e\u0301"),
]
AS_LLAMA = dict(
    byte_fallback=True,
    split_digits=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
)


def trained(path, model_type, **options) -> sentencepiece.SentencePieceProcessor:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter([PROSE] * 20),
        model_writer=made,
        model_type=model_type,
        vocab_size=options.pop("vocab_size", 400 if "byte_fallback" in options else 110),
        hard_vocab_limit=model_type == "bpe",
        minloglevel=2,
        **options,
    )
    path.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())  # type: ignore[call-arg]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "options",
    [{}, AS_LLAMA, dict(add_dummy_prefix=False), dict(normalization_rule_name="nmt_nfkc_cf", pad_id=3)],
    ids=["default", "as llama", "no prefix", "case folded"],
)
def test_ids_and_texts_are_those_of_the_library(model_type, options, tmp_path):
    theirs = trained(tmp_path / "any name.model", model_type, **options)
    ours = Tokenizer.load(tmp_path / "any name.model")
    assert ours.vocab_size == theirs.get_piece_size()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids)
    assert ours.roles["eos"] == theirs.eos_id()
    assert ours.unknown_id == theirs.unk_id()


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_pieces_of_the_user_are_kept_whole(model_type, tmp_path):
    theirs = trained(tmp_path / "m.model", model_type, user_defined_symbols=["<sep>", "fox", "dog a"])
    ours = Tokenizer.load(tmp_path / "m.model")
    for text in ("a<sep>the fox jumps over", "a <sep> dog a", "the<sep>"):
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(model_type="word", vocab_size=30), "words or characters"),
        (dict(model_type="char", vocab_size=40), "words or characters"),
        (dict(model_type="bpe", treat_whitespace_as_suffix=True), "blanks at the end"),
    ],
)
def test_models_of_other_kinds_are_refused_in_one_line(options, words, tmp_path):
    trained(tmp_path / "m.model", **options)
    with pytest.raises(ValueError, match=rf"cannot be read \(a SentencePiece model with {words}") as caught:
        Tokenizer.load(tmp_path / "m.model")
    assert "\n" not in str(caught.value)


def test_a_model_is_read_without_the_library(tmp_path, monkeypatch):
    theirs = trained(tmp_path / "m.model", "bpe")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    assert Tokenizer.load(tmp_path / "m.model", is_trusted=True).encode(PROSE) == theirs.encode(PROSE)


def test_a_model_that_is_cut_short_is_refused(tmp_path):
    trained(tmp_path / "m.model", "unigram")
    data = (tmp_path / "m.model").read_bytes()
    (tmp_path / "m.model").write_bytes(data[:-3])
    with pytest.raises(ValueError, match="no SentencePiece model, or cut short"):
        Tokenizer.load(tmp_path / "m.model")

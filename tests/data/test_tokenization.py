"""Equal text trains equal tokenizers, text cannot spell a special token, and a loaded one knows its kind."""

import subprocess
import sys

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.text.held_out import split_corpus
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.data.vocabulary.training import check_vocab_size, make_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog; der Bär läuft.\n" * 30


def _config(tmp_path, tokenizer, **fields):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(TEXT + f"It is document {number}.\n" * 9, encoding="utf-8")
    vocab_size = 400 if tokenizer == "unigram" else 300
    return DataConfig(files=(str(tmp_path / "*.txt"),), tokenizer=tokenizer, vocab_size=vocab_size, **fields)


def _train(tmp_path, tokenizer):
    config = _config(tmp_path, tokenizer)
    return make_tokenizer(config, split_corpus(config), log=lambda line: None)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_byte_level_tokenizers_give_back_any_text(tmp_path, kind):
    tokenizer = _train(tmp_path, kind)
    text = " Ünïcode\t\n\n漢字 🙂 <|endoftext|>  x\x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_has_no_merges(tmp_path):
    tokenizer = _train(tmp_path, "bytes")
    assert tokenizer.vocab_size == 258
    assert len(tokenizer.encode("läuft")) == 6


def test_bpe_reaches_the_size_and_shortens_text(tmp_path):
    tokenizer = _train(tmp_path, "bpe")
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2


def test_wordpiece_is_lower_cased_and_marks_continuations(tmp_path):
    tokenizer = _train(tmp_path, "wordpiece")
    ids = tokenizer.encode("The BÄR")
    assert tokenizer.decode(ids) == "the bar"
    assert any(piece.startswith("##") for piece in tokenizer.inner.get_vocab())
    assert [tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [0, 2, 3, 4]
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "bytes"])
def test_text_cannot_spell_a_special_token(tmp_path, kind):
    tokenizer = _train(tmp_path, kind)
    ids = tokenizer.encode("<|endoftext|> <|mask|> [CLS] [SEP] [MASK] [PAD]")
    assert not set(ids) & (tokenizer.special_ids - {tokenizer.inner.token_to_id("[UNK]")})


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_training_in_another_process_gives_the_same_tokenizer(tmp_path, kind):
    config = _config(tmp_path, kind)
    code = (
        "from flaxmill.data.config import DataConfig; from flaxmill.data.text.held_out import split_corpus\n"
        "from flaxmill.data.tokenization import canonical_json\n"
        "from flaxmill.data.vocabulary.training import make_tokenizer\n"
        f"config = {config!r}\n"
        "print(canonical_json(make_tokenizer(config, split_corpus(config), lambda line: None)), end='')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == canonical_json(_train(tmp_path, kind))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "bytes"])
def test_a_saved_tokenizer_loads_as_itself(tmp_path, kind):
    tokenizer = _train(tmp_path, kind)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert canonical_json(loaded) == canonical_json(tokenizer)
    assert loaded.encode(TEXT + "<|mask|>") == tokenizer.encode(TEXT + "<|mask|>")
    assert loaded.special_ids == tokenizer.special_ids


def _write_vocabulary(tmp_path, *words):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8"
    )
    return Tokenizer.load(path)


def test_a_vocabulary_lower_cases_whatever_it_holds_as_transformers_does(tmp_path):
    tokenizer = _write_vocabulary(tmp_path, "the", "bar", "##s", "COVID")
    assert tokenizer.encode("The Bärs COVID") == [5, 6, 7, 1]


def test_a_vocabulary_is_cased_where_its_settings_say_so(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = _write_vocabulary(tmp_path, "The", "the", "B")
    assert tokenizer.encode("The the THE") == [5, 6, 1]


def test_a_vocabulary_without_its_specials_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("the\na\n")
    with pytest.raises(ValueError, match=r"vocab\.txt' cannot be read .*lacks \[UNK\], \[CLS\], \[SEP\]"):
        Tokenizer.load(path)


def test_a_malformed_tokenizer_is_one_line(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"^data\.tokenizer=.*cannot be read") as caught:
        Tokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_tokenizer_names_the_choices():
    with pytest.raises(ValueError, match=r"data\.tokenizer='bpee' is not a file; use bpe, wordpiece, uni"):
        Tokenizer.load("bpee")


@pytest.mark.parametrize(("kind", "least"), [("bpe", 258), ("wordpiece", 128), ("unigram", 320)])
def test_a_vocabulary_too_small_names_size_and_fix(kind, least):
    with pytest.raises(
        ValueError, match=rf"data\.vocab_size={least - 1} is too small .* use {least} or more"
    ):
        check_vocab_size(DataConfig(tokenizer=kind, vocab_size=least - 1))
    check_vocab_size(DataConfig(tokenizer=kind, vocab_size=least))
    check_vocab_size(DataConfig(tokenizer="bytes", vocab_size=1))


def test_a_large_corpus_is_sampled(tmp_path):
    config = _config(tmp_path, "bpe")
    corpus = split_corpus(config)
    whole = make_tokenizer(config, corpus, log=lambda line: None)
    pretended = corpus._replace(num_bytes=10**12)
    sampled = make_tokenizer(config, pretended, log=lambda line: None)
    assert sampled.vocab_size < whole.vocab_size  # no document fell into such a small share

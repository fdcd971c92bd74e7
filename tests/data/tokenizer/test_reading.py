"""Tokenizers are read from every kind of file as transformers' AutoTokenizer reads them."""

import json
from typing import Any

import pytest
import tokenizers
from small_tokenizers import TEXT, ours, their_roles, write

from flaxmill.data.tokenization import Tokenizer

END = "<|endoftext|>"


VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "The",
    "river",
    "runs",
    "bär",
    "bar",
    "##s",
    "漢",
    "字",
]
TEXTS = ["The river runs", "the BÄRs", "漢字 bär", "[MASK] the [SEP]", "a <new> river"]


@pytest.mark.parametrize(
    "files",
    [
        dict(config={"model_type": "bert"}),
        dict(tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
        dict(tokenizer_config={"tokenizer_class": "BertTokenizer", "strip_accents": False}),
        dict(
            tokenizer_config={
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": False,
                "tokenize_chinese_chars": False,
            }
        ),
        dict(config={"model_type": "bert"}, added_tokens={"<new>": len(VOCABULARY)}),
        dict(
            tokenizer_config={
                "tokenizer_class": "BertTokenizer",
                "added_tokens_decoder": {str(len(VOCABULARY)): {"content": "<new>", "special": True}},
            }
        ),
        dict(tokenizer_config={"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["<new>"]}),
    ],
    ids=range(7),
)
def test_a_vocabulary_is_read_as_its_settings_say(files, tmp_path):
    import transformers

    write(tmp_path, **files)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path / "vocab.txt")
    for text in TEXTS:
        assert tokenizer.encode(text, markup=True) == theirs(text, add_special_tokens=False)["input_ids"], (
            text
        )
    assert tokenizer.vocab_size == len(theirs)


def test_a_line_of_a_vocabulary_ends_at_the_line_feed_alone(tmp_path):
    import transformers

    odd = ["\u2028", "\x85", "\x0b", "\x1c", "a\x0cb"]
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join([*VOCABULARY[:5], *odd, *VOCABULARY[5:]]).encode() + b"\n")
    theirs = transformers.BertTokenizer(str(path))
    for text in TEXTS[:3]:
        assert Tokenizer.load(path).encode(text) == theirs.encode(text, add_special_tokens=False)
    path.write_bytes("\r\n".join(VOCABULARY).encode())
    assert Tokenizer.load(path).encode("the river") == [5, 7]


def test_special_tokens_of_a_vocabulary_may_have_other_names(tmp_path):
    names = {"cls_token": "[cls]", "sep_token": "[sep]", "unk_token": "[unk]", "pad_token": "[pad]"}
    write(tmp_path, tokenizer_config={"tokenizer_class": "BertTokenizer", **names})
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[pad]", "[unk]", "[cls]", "[sep]", "river"]) + "\n")
    tokenizer = Tokenizer.load(path)
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id) == (2, 3, 0)
    assert tokenizer.encode("river xyz") == [4, 1]
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"lacks \[UNK\], \[CLS\], \[SEP\]; if it spells them otherwise, name"
    ):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    ("class_name", "specials"),
    [
        ("GPT2Tokenizer", [END]),
        ("RobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
        ("GPTNeoXTokenizer", [END, "<|padding|>"]),
    ],
)
@pytest.mark.parametrize("prefix", [{}, {"add_prefix_space": True}])
def test_a_vocabulary_with_merges_is_read_as_transformers_does(class_name, specials, prefix, tmp_path):
    import transformers

    trained = json.loads(ours("gpt2").to_json())["model"]
    pieces = [piece for piece in trained["vocab"] if piece != END]
    vocabulary = {piece: number for number, piece in enumerate([*specials, *pieces])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in trained["merges"]) + "\n"
    )
    write(tmp_path, tokenizer_config={"tokenizer_class": class_name, **prefix})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    for text in [*TEXT.split(". "), *(f"a {special} b" for special in specials)]:
        assert tokenizer.reader(True).encode(text).ids == theirs(text)["input_ids"], text
    assert tokenizer.roles == their_roles(tmp_path)
    written = tmp_path / "again"
    written.mkdir()
    tokenizer.save(written / "tokenizer.json")
    tokenizer.save_settings(written / "tokenizer_config.json")
    assert Tokenizer.load(written).encode(TEXT) == tokenizer.encode(TEXT)


def test_merges_of_an_unknown_class_are_refused_by_name(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match=r"merges\.txt is missing beside vocab\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"is read for the classes GPT2Tokenizer, .* not without"):
        Tokenizer.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_name", "model_type", "file"),
    [("LlamaTokenizer", "bpe", "tokenizer.model"), ("T5Tokenizer", "unigram", "spiece.model")],
)
def test_a_sentencepiece_model_is_read_as_transformers_does(class_name, model_type, file, tmp_path):
    import sentencepiece
    import transformers

    (tmp_path / "text.txt").write_text("\n".join(TEXT.replace("!", ".").split(". ") * 20))
    options: dict[str, Any] = dict(byte_fallback=True, vocab_size=320)
    if model_type == "unigram":
        options = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=70)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "made"),
        model_type=model_type,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (tmp_path / "made.model").rename(tmp_path / file)
    write(tmp_path, tokenizer_config={"tokenizer_class": class_name})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    for text in TEXT.split(". "):
        assert tokenizer.reader(True).encode(text).ids == theirs(text)["input_ids"], text
        assert tokenizer.decode(tokenizer.encode(text)) == theirs.decode(
            theirs(text)["input_ids"], skip_special_tokens=True
        )
    assert {role: tokenizer.roles[role] for role in their_roles(tmp_path)} == their_roles(tmp_path)


def test_casing_beside_a_tokenizer_file_goes_before_the_file(tmp_path):
    inner = tokenizers.Tokenizer.from_str(ours("bert").to_json())
    write(tmp_path, inner, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    assert Tokenizer.load(tmp_path).encode("THE") != ours("bert").encode("THE")
    assert Tokenizer.load(tmp_path).encode("the") == ours("bert").encode("the")

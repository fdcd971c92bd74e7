"""What stands beside a tokenizer decides its roles and its reading, as in transformers' AutoTokenizer."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from small_llama import make_tokenizer
from small_tokenizers import TEXT, directory_of, ours
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer_roles import Roles
from flaxmill.data.tokenizer_settings import MEANINGLESS_KEYS, READ_KEYS, ROLES
from flaxmill.data.tokenizer_training import load_tokenizer

END = "<|endoftext|>"
NO_CODE = "PreTrainedTokenizerFast"
AS_OBJECT = {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "rstrip": False}
AS_OBJECT |= {"single_word": False, "normalized": False, "special": True}


@pytest.fixture(autouse=True)
def quiet_transformers():
    """It logs what it thinks of unusual directories."""
    logging.getLogger("transformers").setLevel(logging.ERROR)


def byte_level(*specials: str) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return inner


def write(directory, inner=None, **files):
    directory.mkdir(exist_ok=True)
    if inner is not None:
        inner.save(str(directory / "tokenizer.json"))
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))


def their_roles(directory) -> Roles:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids: list[Any] = [(role, getattr(tokenizer, f"{role}_token_id")) for role in ROLES]
    return {role: id_ for role, id_ in ids if id_ is not None}


SPECIALS = (END, "<s>", "</s>", "<unk>", "<mask>", "<pad>", "<EOS>", "<|im_end|>")


@pytest.mark.parametrize(
    "files",
    [
        dict(tokenizer_config={"tokenizer_class": NO_CODE, "eos_token": "<EOS>"}),
        dict(tokenizer_config={"tokenizer_class": NO_CODE, "eos_token": AS_OBJECT}),
        dict(
            tokenizer_config={"tokenizer_class": NO_CODE, "eos_token": "<EOS>", "pad_token": "<pad>"},
            special_tokens_map={"eos_token": "<|im_end|>", "bos_token": "<s>"},
        ),
        dict(
            tokenizer_config={
                "tokenizer_class": NO_CODE,
                "eos_token": "<EOS>",
                "added_tokens_decoder": {"262": {"content": "<EOS>", "special": True, "normalized": False}},
            },
            special_tokens_map={"eos_token": "<|im_end|>", "bos_token": "<s>"},
        ),
        dict(tokenizer_config={"tokenizer_class": "GPT2Tokenizer"}),
        dict(tokenizer_config={"tokenizer_class": "GPT2TokenizerFast", "bos_token": None}),
        dict(tokenizer_config={"tokenizer_class": "RobertaTokenizer"}),
        dict(tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "mask_token": "<mask>"}),
        dict(config={"model_type": "gpt2"}),
        dict(config={"model_type": "roberta"}),
        dict(special_tokens_map={"eos_token": "<EOS>"}, config={"model_type": "gpt2"}),
    ],
    ids=range(11),
)  # fmt: skip
def test_roles_are_those_of_transformers(files, tmp_path):
    write(tmp_path, byte_level(*SPECIALS), **files)
    theirs = their_roles(tmp_path)
    roles = dict(Tokenizer.load(tmp_path).roles)
    # Where no file names a role and the class has none, transformers has none either; a mask is still found.
    if not any("_token" in key for values in files.values() for key in values):
        roles = {role: roles[role] for role in theirs}
    assert roles == theirs


def test_the_roles_of_a_llama_are_those_of_its_class(tmp_path):
    write(tmp_path, make_tokenizer(), tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    assert Tokenizer.load(tmp_path).roles == their_roles(tmp_path) == {"bos": 1, "eos": 2, "unk": 0}


def test_the_models_ids_are_roles_where_the_tokenizer_names_none(tmp_path):
    inner = byte_level(*SPECIALS)
    ids = {text: inner.token_to_id(text) for text in SPECIALS}
    config = {"model_type": "gpt2", "eos_token_id": [ids["<EOS>"], ids[END]], "pad_token_id": ids["<pad>"]}
    write(tmp_path, inner, tokenizer_config={"tokenizer_class": NO_CODE}, config=config)
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.end_id, tokenizer.pad_id) == (ids["<EOS>"], ids["<pad>"])
    write(tmp_path, generation_config={"eos_token_id": ids["<|im_end|>"]})  # which goes before
    assert Tokenizer.load(tmp_path).end_id == ids["<|im_end|>"]


def test_a_models_default_id_that_is_a_word_is_no_role(tmp_path):
    write(tmp_path, byte_level("</s>"), config={"model_type": "llama", "eos_token_id": 2, "bos_token_id": 1})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.inner.id_to_token(tokenizer.end_id or 0) == "</s>"
    assert "bos" not in tokenizer.roles


@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "LlamaTokenizer"}])
def test_a_mask_makes_no_roberta_of_a_llama(settings, tmp_path):
    inner = tokenizers.Tokenizer.from_str(ours("llama").to_json())
    inner.add_special_tokens(["<mask>"])
    write(tmp_path, inner, **({} if settings is None else {"tokenizer_config": settings}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.cls_id, tokenizer.sep_id) == (None, None)
    assert not tokenizer.is_bert_like
    assert tokenizer.mask_id == inner.token_to_id("<mask>")
    was = Tokenizer.load(tmp_path, by_spelling=True)
    assert was.cls_id == inner.token_to_id("<s>")


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


def test_split_special_tokens_reads_no_markup(tmp_path):
    settings = json.loads((directory_of("bert") / "tokenizer_config.json").read_text())
    inner = tokenizers.Tokenizer.from_str(ours("bert").to_json())
    write(tmp_path, inner, tokenizer_config=settings | {"split_special_tokens": True})
    assert ours("bert").sep_id in ours("bert").encode("a [SEP]", markup=True)
    assert ours("bert").sep_id not in Tokenizer.load(tmp_path).encode("a [SEP]", markup=True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", "[]", "holds list and no object"),
        ("special_tokens_map.json", "[" * 100_000, "cannot be read"),
        ("config.json", b"\xff\xfe", "cannot be read"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["a.B", null]}}', "names code of its own"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "added token 'x'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [3]}', "the added token"),
        ("added_tokens.json", '{"<new>": 7}', "gives? the added token '<new>' the id 7, the tokenizer"),
        ("added_tokens.json", '{"<new>": "7.5"}', "the added token"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read_are_one_line(name, text, message, tmp_path):
    write(tmp_path, byte_level(END))
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_saved_reads_back_with_the_same_roles(tmp_path):
    for number, by_spelling in enumerate((False, True)):
        write(
            tmp_path,
            byte_level(*SPECIALS),
            tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "eos_token": "<EOS>"},
        )
        tokenizer = Tokenizer.load(tmp_path, by_spelling=by_spelling)
        again = tmp_path / str(number)
        again.mkdir()
        tokenizer.save(again / "tokenizer.json")
        tokenizer.save_settings(again / "tokenizer_config.json")
        assert Tokenizer.load(again).roles == tokenizer.roles


def test_every_setting_that_transformers_takes_is_followed_or_known_to_change_nothing():
    import inspect

    import transformers
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    names = ("Bert", "Roberta", "GPT2", "GPTNeoX", "Llama", "Qwen2", "T5", "Marian")
    taken = set()
    for name in names:
        taken |= set(inspect.signature(getattr(transformers, f"{name}Tokenizer").__init__).parameters)
    # What the base class takes by name out of its keywords.
    source = inspect.getsource(PreTrainedTokenizerBase.__init__)
    source += inspect.getsource(transformers.PreTrainedTokenizerFast.__init__)
    taken |= set(re.findall(r"kwargs\.(?:pop|get|setdefault)\(\"(\w+)\"", source))
    internal = {"self", "kwargs", "vocab", "merges", "source_spm", "target_spm", "target_vocab_file"}
    internal |= {
        "tokenizer_object",
        "gguf_file",
        "post_processor",
        "tokenizer_truncation",
        "tokenizer_padding",
    }
    internal |= {"model_specific_special_tokens", "tokenizer", "merges_file", "files_loaded", "_commit_hash"}
    known = READ_KEYS | MEANINGLESS_KEYS.keys()
    assert {key for key in taken - internal - known if not key.startswith("_")} == set()
    assert not READ_KEYS & MEANINGLESS_KEYS.keys()


def test_the_page_on_tokenizers_lists_the_settings_that_are_followed_and_those_that_are_not():
    page = (Path(__file__).parent.parent / "docs" / "tokenizers.md").read_text()
    for key in READ_KEYS - {f"{role}_token" for role in ROLES}:
        assert f"`{key}`" in page, key
    for key, why in MEANINGLESS_KEYS.items():
        assert f"| `{key}` | {why} |" in page, key


def test_a_setting_that_nobody_knows_is_named(tmp_path):
    write(tmp_path, byte_level(END), tokenizer_config={"tokenizer_class": NO_CODE, "do_lowercase": True})
    assert Tokenizer.load(tmp_path).unknown_settings == ["do_lowercase"]
    said = []
    load_tokenizer(DataConfig(tokenizer=str(tmp_path)), said.append)
    assert said == [f"{tmp_path}: tokenizer_config.json has keys that are not known here: do_lowercase"]

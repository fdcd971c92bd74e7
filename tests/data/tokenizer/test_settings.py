"""Files beside a tokenizer decide its roles and how it is read, as in transformers' AutoTokenizer."""

import json
import re
from pathlib import Path

import pytest
import tokenizers
from small_llama import make_tokenizer
from small_tokenizers import byte_level, directory_of, ours, their_roles, write

from flaxmill.data.config import DataConfig
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import MEANINGLESS_KEYS, READ_KEYS, ROLES
from flaxmill.data.vocabulary.training import load_tokenizer

END = "<|endoftext|>"
NO_CODE = "PreTrainedTokenizerFast"
AS_OBJECT = {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "rstrip": False}
AS_OBJECT |= {"single_word": False, "normalized": False, "special": True}


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
    # If no file names a role and the class has none, transformers has none; a mask is still found here.
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
    write(tmp_path, generation_config={"eos_token_id": ids["<|im_end|>"]})  # this has precedence
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
        ("tokenizer_config.json", "[]", "holds list, not an object"),
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
    # Settings that the base class takes by name out of its keyword arguments.
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
    page = (Path(__file__).parents[3] / "docs" / "tokenizers.md").read_text()
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


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((directory_of("gpt2") / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"a": "\\udc00"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json cannot be read .*; restore or delete it"):
        Tokenizer.load(tmp_path)


def test_a_role_that_only_a_files_id_has_is_known_as_spelled_otherwise(tmp_path):
    settings = {"tokenizer_class": NO_CODE, "eos_token": "</s>"}
    inner = byte_level(END)
    write(
        tmp_path,
        inner,
        tokenizer_config=settings,
        config={"model_type": "gpt2", "eos_token_id": inner.token_to_id(END)},
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.end_id == inner.token_to_id(END)
    assert tokenizer.roles_spelled_otherwise == ["eos"]
    assert tokenizer.settings_with_roles()["eos_token"] == END

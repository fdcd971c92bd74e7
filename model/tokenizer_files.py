"""Writes a tokenizer so that transformers' AutoTokenizer reads it: its JSON, and which tokens are special."""

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from flaxmill.model.config import ModelConfig
from flaxmill.model.weight_writing import PartialFiles

_NAMES: dict[str, Sequence[str]] = {
    "unk_token": ("[UNK]", "<unk>"),
    "pad_token": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "bos_token": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos_token": ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"),
}
_IDS = {"pad_id": "pad_token", "bos_id": "bos_token", "eos_id": "eos_token"}


def special_tokens(tokenizer_json: str) -> dict[str, str]:
    """The special tokens that a tokenizer.json has, by transformers' names for their roles."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    names = dict(_NAMES)
    if tokenizer.token_to_id("<mask>") is not None:  # RoBERTa's spelling of [CLS] and [SEP]
        names |= {"cls_token": ("<s>",), "sep_token": ("</s>",)}
    found = {
        role: next((name for name in spellings if tokenizer.token_to_id(name) is not None), None)
        for role, spellings in names.items()
    }
    if found["cls_token"] == "[CLS]":
        found |= {"bos_token": None, "eos_token": None}  # BERT's rows begin and end with other roles
    return {role: name for role, name in found.items() if name is not None}


def token_ids(tokenizer_json: str) -> dict[str, int]:
    """Ids for ModelConfig's pad_id, bos_id and eos_id, of those that the tokenizer has."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    roles = special_tokens(tokenizer_json)
    ids = {field: tokenizer.token_to_id(roles[role]) for field, role in _IDS.items() if role in roles}
    return {field: id_ for field, id_ in ids.items() if id_ is not None}


def write_tokenizer(files: PartialFiles, tokenizer_json: str, config: ModelConfig) -> None:
    """tokenizer.json and tokenizer_config.json.

    A tokenizer with [CLS] and [SEP] that adds neither is made to: rows of training had them.
    """
    roles = special_tokens(tokenizer_json)
    inputs = ["input_ids", *(["token_type_ids"] if config.num_segments else []), "attention_mask"]
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    if config.max_positions is not None:
        settings["model_max_length"] = config.max_positions
    files.write_text("tokenizer.json", _with_row_template(tokenizer_json, roles))
    files.write_json("tokenizer_config.json", settings)


def _with_row_template(tokenizer_json: str, roles: dict[str, str]) -> str:
    cls, sep = roles.get("cls_token"), roles.get("sep_token")
    if cls is None or sep is None or json.loads(tokenizer_json).get("post_processor") is not None:
        return tokenizer_json
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    ids = [(name, tokenizer.token_to_id(name)) for name in (cls, sep)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=ids
    )
    return tokenizer.to_str()

"""Writes a tokenizer so that transformers' AutoTokenizer reads it: its JSON, and which tokens are special."""

from collections.abc import Mapping
from typing import Any

import tokenizers

from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.writing import PartialFiles

_ROLES = {"pad_token": "pad_id", "bos_token": "bos_id", "eos_token": "eos_id"}


def write_tokenizer(
    files: PartialFiles, tokenizer_json: str, settings: Mapping[str, Any], config: ModelConfig
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
      settings: what tokenizer_config.json says apart from the model's inputs and length; the config's ids
        name the roles of special tokens that are left out here.
    """
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    ids = {role: getattr(config, field) for role, field in _ROLES.items() if role not in settings}
    spelled = {role: tokenizer.id_to_token(id_) for role, id_ in ids.items() if id_ is not None}
    inputs = ["input_ids", *(["token_type_ids"] if config.num_segments else []), "attention_mask"]
    written: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        **settings,
        **{role: spelling for role, spelling in spelled.items() if spelling is not None},
    }
    if config.max_positions is not None:
        written.setdefault("model_max_length", config.max_positions)
    files.write_text("tokenizer.json", tokenizer_json)
    files.write_json("tokenizer_config.json", written)

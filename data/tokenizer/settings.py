"""What the files beside a tokenizer say of it: which token begins, ends, pads or masks a text.

They are tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json and
config.json, in transformers' order of precedence.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

Role = Literal["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
ROLES: tuple[Role, ...] = get_args(Role)
SETTINGS_FILE = "tokenizer_config.json"
SETTINGS_FILES = (
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
)
TEMPLATE_FILE = "chat_template.jinja"
"""Holds the chat template; it goes before tokenizer_config.json's."""

READ_KEYS = frozenset(
    {
        *(f"{role}_token" for role in ROLES),
        *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
        *("tokenizer_class", "model_max_length", "max_len", "model_input_names", "truncation_side"),
        *("do_lower_case", "strip_accents", "tokenize_chinese_chars"),  # BERT's
        *("add_prefix_space", "trim_offsets"),  # byte-level BPE's
        *("split_special_tokens", "auto_map"),  # auto_map is refused
        "chat_template",
        *(
            "legacy",
            "extra_ids",
            "sp_model_kwargs",
        ),  # transformers reads these where it converts a SentencePiece model
    }
)
"""Keys of tokenizer_config.json that are followed."""
MEANINGLESS_KEYS: dict[str, str] = {
    "add_bos_token": "tokenizer.json's template says it, also to transformers",
    "add_eos_token": "as add_bos_token",
    "backend": "there is one",
    "chat_control_tokens": "belongs to conversations",
    "clean_up_tokenization_spaces": "text is decoded as its tokens spell it",
    "device_map": "belongs to models",
    "do_basic_tokenize": "transformers 5 has no other way",
    "errors": "bytes that are no character are decoded as U+FFFD",
    "fix_mistral_regex": "tokenizer.json is read as it stands",
    "init_inputs": "belongs to Python",
    "is_local": "belongs to transformers",
    "local_files_only": "belongs to transformers",
    "name_or_path": "names where the tokenizer was",
    "never_split": "transformers 5 has no such list",
    "pad_to_multiple_of": "rows have one length",
    "pad_token_type_id": "nothing attends to padding",
    "padding_side": "rows are padded where their positions do not see it",
    "processor_class": "belongs to images and sound",
    "response_schema": "belongs to conversations",
    "response_template": "belongs to conversations",
    "return_token_type_ids": "belongs to a call",
    "separate_vocabs": "belongs to a pair of SentencePiece models, which is not read",
    "source_lang": "names a language",
    "spaces_between_special_tokens": "belongs to decoding, which leaves special tokens out",
    "special_tokens_map_file": "names a file",
    "stride": "data.stride says it",
    "target_lang": "names a language",
    "tokenizer_file": "names a file",
    "tokenizer_type": "names a class to transformers",
    "truncation_strategy": "the longer text of a pair is cut first",
    "max_length": "data.sequence_length says it",
    "unk_id": "the file says it",
    "use_default_system_prompt": "belongs to conversations",
    "use_fast": "there is one kind",
    "verbose": "belongs to transformers",
    "vocab_file": "names a file",
    "vocab_size": "the file says it",
    "__type": "belongs to transformers",
}
"""Keys of tokenizer_config.json that change nothing here, and why."""

_ENDOFTEXT = "<|endoftext|>"
# The defaults of transformers' tokenizer classes, where no file says otherwise.
_CLASS_TOKENS: dict[str, dict[Role, str]] = {
    "BertTokenizer": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "RobertaTokenizer": {
        **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"},
        "mask": "<mask>",
    },
    "GPT2Tokenizer": {"bos": _ENDOFTEXT, "eos": _ENDOFTEXT, "unk": _ENDOFTEXT},
    "GPTNeoXTokenizer": {"bos": _ENDOFTEXT, "eos": _ENDOFTEXT, "unk": _ENDOFTEXT, "pad": "<|padding|>"},
    "LlamaTokenizer": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "Qwen2Tokenizer": {"eos": _ENDOFTEXT, "unk": _ENDOFTEXT, "pad": _ENDOFTEXT},
    "T5Tokenizer": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "MarianTokenizer": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
}
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "t5": "T5Tokenizer",
    "marian": "MarianTokenizer",
}


class TokenizerSettings(NamedTuple):
    """What the files beside a tokenizer say; all empty where there are none.

    values: tokenizer_config.json with special_tokens_map.json merged into it.
    class_name: the tokenizer class of transformers, without "Fast"; None: not known.
    token_ids: ids by role, from generation_config.json and config.json.
    added_tokens: tokens by id; perhaps the tokenizer's own file lacks them.
    """

    values: dict[str, Any] = {}  # noqa: RUF012  (a NamedTuple's default, which nobody changes)
    class_name: str | None = None
    token_ids: dict[Role, int] = {}  # noqa: RUF012
    added_tokens: dict[int, dict[str, Any]] = {}  # noqa: RUF012

    @property
    def are_absent(self) -> bool:
        """Whether there is nothing to read the roles from."""
        return self == TokenizerSettings()

    @property
    def named_tokens(self) -> dict[Role, str]:
        """Spellings by role: from the files, else the defaults of the class."""
        named: dict[Role, str] = dict(_CLASS_TOKENS.get(self.class_name or "", {}))
        for role in ROLES:
            if f"{role}_token" in self.values:
                named.pop(role, None)
                if spelling := token_text(self.values[f"{role}_token"]):
                    named[role] = spelling
        return named

    @property
    def unknown_keys(self) -> list[str]:
        """Keys that are neither followed nor known to change nothing; any key NAME_token is followed."""
        known = READ_KEYS | MEANINGLESS_KEYS.keys()
        return sorted(key for key in self.values if key not in known and not key.endswith("_token"))

    @property
    def names_tokens(self) -> bool:
        """Whether a file spells at least one role."""
        return any(f"{role}_token" in self.values for role in ROLES)


def read_settings(directory: Path) -> TokenizerSettings:
    """The settings in a directory. Raises ValueError for a file that is damaged or of another form."""
    files = {name: _read_object(directory / name) for name in SETTINGS_FILES}
    values, config = dict(files[SETTINGS_FILE]), files["config.json"]
    if "model_type" not in config:  # it is the config of a run, or of something else
        config = {}
    _refuse_code(values, directory)
    if "added_tokens_decoder" not in values:  # as in transformers: a newer file says it all
        values |= files["special_tokens_map.json"]
    if (template := _read_template(directory / TEMPLATE_FILE)) is not None:
        values["chat_template"] = template
    ids = _token_ids(config) | _token_ids(files["generation_config.json"])
    class_name = values.get("tokenizer_class") or config.get("tokenizer_class")
    class_name = class_name or _CLASS_OF_MODEL.get(str(config.get("model_type")))
    return TokenizerSettings(
        values,
        str(class_name).removesuffix("Fast") if class_name else None,
        ids,
        _added_tokens(values, files["added_tokens.json"], directory),
    )


def find_chat_template(values: Mapping[str, Any]) -> str | None:
    """The chat template of a tokenizer_config.json; of several named ones, the default."""
    template = values.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, Mapping) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) and template else None


def token_text(value: Any) -> str | None:
    """The spelling of a token that is written as a string or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _token_ids(values: Mapping[str, Any]) -> dict[Role, int]:
    """Ids by role; from several end tokens, the first."""
    ids: dict[Role, int] = {}
    for role in ROLES:
        value = values.get(f"{role}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            ids[role] = value
    return ids


def _added_tokens(
    values: Mapping[str, Any], legacy: Mapping[str, Any], directory: Path
) -> dict[int, dict[str, Any]]:
    decoder = values.get("added_tokens_decoder") or {id_: {"content": text} for text, id_ in legacy.items()}
    pairs = decoder.items() if isinstance(decoder, Mapping) else [(decoder, None)]
    found: dict[int, dict[str, Any]] = {}
    for key, token in pairs:
        number = str(key)
        if not (number.isascii() and number.isdigit() and len(number) < 10 and isinstance(token, Mapping)):
            raise _odd_token(directory, key, token)
        if token_text(token) is None:
            raise _odd_token(directory, key, token)
        found[int(number)] = dict(token)
    return found


def _odd_token(directory: Path, key: Any, token: Any) -> ValueError:
    return ValueError(
        f"{directory / SETTINGS_FILE}: the added token {key!r:.20}: {token!r:.60} is not an id with its "
        "token; correct or delete it"
    )


def _refuse_code(values: Mapping[str, Any], directory: Path) -> None:
    if values.get("auto_map"):
        raise ValueError(
            f"{directory / SETTINGS_FILE} names code of its own (auto_map), which is not run; delete "
            "auto_map if tokenizer.json alone is the tokenizer"
        )


def _read_template(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}); restore or delete it") from None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        # JSON can spell half of a surrogate pair, which is no character and which UTF-8 has no bytes for.
        json.dumps(values, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}); restore or delete it") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, not an object; restore or delete it")
    return values

"""Sorts the keys of a family's config.json: read, refused unless harmless, or without meaning.

Each family lists its own keys; every key of transformers' configuration class is in one of the three lists.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from flaxmill.model.config_json.notes import GENERATION_KEYS, NOTES

MAX_SIZE = 2**31 - 1
MAX_LAYERS = 4096  # the deepest published Transformers have a thousand

Kind = Literal["whole", "number", "flag", "word", "ids", "any"]


class Setting(NamedTuple):
    """A key that is read: what its value may be, and the value that transformers takes where it is absent."""

    kind: Kind
    default: Any
    or_null: bool = False
    least: int = 1
    most: int = MAX_SIZE


class Settings(NamedTuple):
    """The keys of one family's config.json."""

    read: dict[str, Setting]
    only: Mapping[str, Any]
    """Keys that are refused with any other value than this one; None stands for any empty value."""
    unused: Mapping[str, tuple[str, ...]]
    """Keys that do not change what the model computes, by the reason why."""
    aliases: Mapping[str, str] = {}
    """Other names that transformers has for keys that are read."""
    depths: Mapping[str, str] = {}
    """Keys that count layers or experts, and what precedes the number of one in the names of its tensors."""

    def keys(self) -> set[str]:
        """All keys of the family."""
        return {*self.read, *self.only, *self.aliases, *sum(self.unused.values(), ())}


def whole(default: int | None, *, or_null: bool = False, least: int = 1, most: int = MAX_SIZE) -> Setting:
    """A size or a count."""
    return Setting("whole", default, or_null or default is None, least, most)


def depth(default: int | None) -> Setting:
    """A number of layers."""
    return whole(default, most=MAX_LAYERS)


def number(default: float | None, *, or_null: bool = False) -> Setting:
    return Setting("number", default, or_null or default is None)


def flag(default: bool | None) -> Setting:
    return Setting("flag", default, default is None)


def word(default: str | None) -> Setting:
    return Setting("word", default, default is None)


def token(default: int | None) -> Setting:
    """A token's id, a list of them, or null."""
    return Setting("ids", default, True)


def other(default: Any = None) -> Setting:
    """A list or an object, which its reader checks."""
    return Setting("any", default, True)


DROPOUTS = "dropout in training, where `model.dropout` and `model.attention_dropout` stand for all rates"
DRAWING = "how transformers draws new weights"
SPEED = "how it is computed, not what"
OTHER_HEADS = "for heads that are not read"
ABANDONED = "from older releases; nothing reads it"
A_DECODER = "the family is a decoder whatever it says"

_COMMON = Settings(
    read={
        "architectures": other(),
        "model_type": word(None),
        "id2label": other(),
        "label2id": other(),
        "num_labels": whole(None, most=1_000_000),
        "problem_type": word(None),
    },
    only={
        "add_cross_attention": False,
        "auto_map": None,
        "cross_attention_hidden_size": None,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "per_layer_config": None,
        "pruned_heads": None,
        "quantization_config": None,
        "tie_encoder_decoder": False,
    },
    unused={
        SPEED: ("attn_implementation", "chunk_size_feed_forward", "gradient_checkpointing", "torchscript",
                "use_bfloat16", "use_cache"),
        "weights are read as float32": ("dtype", "torch_dtype"),
        "for encoder-decoders only": ("decoder_start_token_id",),
        "what a call returns": ("output_attentions", "output_hidden_states", "return_dict"),
        "the tokenizer's files say it": ("cls_token_id", "mask_token_id", "sep_token_id", "tokenizer_class",
                                         "unk_token_id"),
        "about decoding; read if there is no `generation_config.json`": GENERATION_KEYS,
        "notes": NOTES,
    },
)  # fmt: skip
_FIXES = {
    "auto_map": ": a model's own code is never run; give a model that transformers itself has",
    "quantization_config": ": quantised weights; give the float32, float16 or bfloat16 checkpoint",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def with_common(settings: Settings) -> Settings:
    """A family's keys and the keys that all families have; for a key in both, the family's entry counts."""
    own = settings.keys()
    unused = {reason: tuple(key for key in keys if key not in own) for reason, keys in _COMMON.unused.items()}
    merged = {
        reason: (*settings.unused.get(reason, ()), *unused.get(reason, ()))
        for reason in {**settings.unused, **unused}
    }
    return settings._replace(
        read={**{key: value for key, value in _COMMON.read.items() if key not in own}, **settings.read},
        only={**{key: value for key, value in _COMMON.only.items() if key not in own}, **settings.only},
        unused={reason: keys for reason, keys in merged.items() if keys},
    )


def fill_in(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with defaults for missing keys; whole numbers are ints, however they are written.

    Raises:
      ValueError: a value that the model cannot compute with, or that is of the wrong kind for its key.
    """
    refuse(values, settings.only)
    filled = _resolve_aliases(settings, values)
    for key, setting in settings.read.items():
        filled[key] = checked(key, filled[key], setting) if key in filled else setting.default
    return filled


def refuse(values: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raises ValueError for the first key with a value other than the supported one."""
    for key, value in supported.items():
        given = values.get(key, value)
        if given == value or (value is None and not given):
            continue
        usual = f"only {_spelled(value)} is; convert or choose a checkpoint without it"
        raise ValueError(f"config.json: {key}={shown(given)} is not supported{_FIXES.get(key, f', {usual}')}")


def unknown_keys(settings: Settings, values: Mapping[str, Any]) -> dict[str, str | None]:
    """Keys that transformers' class of the family does not have, and the key that each may stand for.

    Keys that begin with an underscore are left out: they are notes of tools.
    """
    known = settings.keys()
    unknown = [key for key in values if key not in known and not key.startswith("_")]
    absent = [key for key in settings.read if key not in values]
    near = {key: difflib.get_close_matches(key, absent, 1, cutoff=0.8) for key in unknown}
    return {key: found[0] if found else None for key, found in near.items()}


def checked(key: str, value: Any, setting: Setting) -> Any:
    """The value of a key. Raises ValueError if the key may not have this value."""
    if value is None:
        if setting.or_null:
            return setting.default if setting.kind == "flag" else None
        raise ValueError(f"config.json: {key}=null must have a value, such as {_spelled(setting.default)}")
    return _CHECKS[setting.kind](key, value, setting)


def finite(key: str, value: Any) -> float:
    """The value as a float. Raises ValueError if it is not a number, or infinite."""
    return float(checked(key, value, number(1.0)))


def shown(value: Any) -> str:
    """A value as messages show it: always short."""
    return _SHORT.repr(value)


def _resolve_aliases(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(values)
    for alias, key in settings.aliases.items():
        if alias not in values:
            continue
        if key in values and values[key] != values[alias]:
            raise ValueError(
                f"config.json: {alias}={shown(values[alias])} and {key}={shown(values[key])} name the same "
                "setting; keep one"
            )
        filled[key] = values[alias]
    return filled


def _whole(key: str, value: Any, setting: Setting) -> int:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole:
        raise ValueError(f"config.json: {key}={shown(value)} must be a whole number")
    if not setting.least <= value <= setting.most:
        raise ValueError(
            f"config.json: {key}={shown(value)} must lie between {setting.least} and {setting.most}"
        )
    return int(value)


def _number(key: str, value: Any, setting: Setting) -> float:
    del setting
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"config.json: {key}={shown(value)} must be a number")
    # Compare before converting: an integer may be larger than any float.
    if not abs(value) <= 1e300 or not math.isfinite(value):
        raise ValueError(f"config.json: {key}={shown(value)} must be a finite number")
    # JAX cannot multiply by an integer that fits none of its types.
    return value if abs(value) <= MAX_SIZE else float(value)


def _flag(key: str, value: Any, setting: Setting) -> bool:
    del setting
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {key}={shown(value)} must be true or false")
    return value


def _word(key: str, value: Any, setting: Setting) -> str:
    del setting
    if not isinstance(value, str):
        raise ValueError(f"config.json: {key}={shown(value)} must be a word in quotes")
    return value


def _ids(key: str, value: Any, setting: Setting) -> int | list[int]:
    """An id or a list of ids, of any sign and size: old files have -1, and ids past the vocabulary."""
    del setting
    one = whole(0, least=-MAX_SIZE)
    return [_whole(key, id_, one) for id_ in value] if isinstance(value, list) else _whole(key, value, one)


def _any(key: str, value: Any, setting: Setting) -> Any:
    del key, setting
    return value


_CHECKS: dict[Kind, Callable[[str, Any, Setting], Any]] = {
    "whole": _whole,
    "number": _number,
    "flag": _flag,
    "word": _word,
    "ids": _ids,
    "any": _any,
}


def _spelled(value: Any) -> str:
    return "null" if value is None else repr(value)

"""What generation_config.json says about how a model decodes, and what of it is not followed here."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.files import read_json
from flaxmill.model.config_json.notes import GENERATION_KEYS
from flaxmill.train.run.token_ids import end_ids, read_ids

LOGGER = logging.getLogger("flaxmill.weights")
GENERATION_FILE = "generation_config.json"

# Settings that would change the text, and the values with which they do not. How to search, how
# to draw and how much to write are left to the user, so these settings are not listed.
_NOT_FOLLOWED: dict[str, Any] = {
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "forced_bos_token_id": None,
    "begin_suppress_tokens": None,
    "forced_decoder_ids": None,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "stop_strings": None,
    "guidance_scale": None,
    "watermarking_config": None,
}


def read_generation_settings(directory: Path) -> dict[str, Any]:
    """What generation_config.json says; without that file, what config.json says about decoding, as in
    transformers. Raises ValueError where the file cannot be read."""
    if (directory / GENERATION_FILE).is_file():
        return read_json(directory / GENERATION_FILE)
    config = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    return {key: config[key] for key in GENERATION_KEYS if config.get(key) is not None}


def read_decoding(
    settings: Mapping[str, Any], config: ModelConfig, tokenizer: Tokenizer, *, is_run: bool
) -> dict[str, Any]:
    """Fields of GenerationConfig that the model itself decides: what ends a text, what is never chosen.

    A warning names the settings that transformers would follow and this decoder does not.
    """
    words = settings.get("bad_words_ids") or []
    words = words if isinstance(words, list) else [words]
    bad_words = [read_ids({"bad_words_ids": ids}, "bad_words_ids") for ids in words]
    ignored = [
        f"{name}={settings[name]!r:.40}"
        for name, unset in _NOT_FOLLOWED.items()
        if _sets(settings, name, unset)
    ]
    if any(len(ids) > 1 for ids in bad_words):
        ignored.append("bad_words_ids of several tokens")
    if ignored:
        LOGGER.warning("generation_config.json: %s is not followed here", ", ".join(ignored))
    return {
        "end_ids": end_ids(settings, config, tokenizer, is_run=is_run),
        "suppressed_ids": (
            *(ids[0] for ids in bad_words if len(ids) == 1),
            *read_ids(settings, "suppress_tokens"),
        ),
        "forced_end": settings.get("forced_eos_token_id") is not None,
    }


def _sets(settings: Mapping[str, Any], name: str, unset: Any) -> bool:
    return settings.get(name) not in (None, unset, [], {})

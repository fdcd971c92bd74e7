"""Where a dataset is in the cache: its name is made of all that decides its rows, without reading text."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.config import SENTENCE_RULES, TRAINED, DataConfig, Layout
from flaxmill.data.examples.framing import document_frame
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.prepared.manifest import FORMAT_VERSION
from flaxmill.data.text.sentences import describe_splitter
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.data.tokenizer.reading import find_tokenizer
from flaxmill.data.tokenizer.settings import SETTINGS_FILES, TEMPLATE_FILE

# The fields that change the rows of labelled examples, besides the fields of every layout.
_EXAMPLE_SETTINGS: dict[Layout, tuple[str, ...]] = {
    "labelled": ("text_column", "pair_column", "label_column", "label_type", "separator"),
    "tagged": ("text_column", "label_column"),
    "answers": ("stride",),
    "sources": ("text_column", "target_column", "target_length"),
    "prompts": ("text_column", "target_column", "target_length", "separator"),
    "preferences": (),
    "matches": ("text_column", "pair_column"),
}


class Places(NamedTuple):
    """Directories of one dataset.

    own: where it is, or will be.
    unnamed: where it is if its labels, which the config names, were found in its files.
    former: where version 0.1.0 put it; that version knew neither framing nor markup of loaded tokenizers.
    """

    own: Path
    unnamed: Path | None
    former: Path | None


def stored_settings(config: DataConfig, layout: Layout) -> dict[str, Any]:
    """The settings that change the stored bytes; masking and mixing happen when rows are read."""
    settings: dict[str, Any] = {
        "layout": layout,
        "sequence_length": config.sequence_length,
        "tokenizer": config.tokenizer if config.tokenizer in TRAINED else "loaded",
    }
    if config.tokenizer in TRAINED and config.tokenizer != "bytes":
        settings["vocab_size"] = config.vocab_size
    if layout in _EXAMPLE_SETTINGS:
        settings |= {field: getattr(config, field) for field in _EXAMPLE_SETTINGS[layout]}
    elif config.files:
        settings["documents"] = config.documents
    else:
        settings["embedded"] = config.embedded
    if not config.valid_files:
        settings |= {"valid_fraction": config.valid_fraction, "seed": config.seed}
    if layout in ("packed", "conversations") and config.packing != "concatenate":
        settings["packing"] = config.packing
    if settings.get("packing") == "full_sentences":
        settings["frames"] = "all"  # documents of one sentence once lacked the tokens before it
    if config.sentences != SENTENCE_RULES and (
        layout == "pairs" or settings.get("packing") == "full_sentences"
    ):
        settings["sentences"] = describe_splitter(config.sentences)
    if config.bad_rows != "error":
        settings["bad_rows"] = config.bad_rows
    if config.duplicates != "keep" and layout not in _EXAMPLE_SETTINGS:
        settings["duplicates"] = config.duplicates
    if layout == "pairs":
        settings |= {
            "seed": config.seed,
            "pair_copies": config.pair_copies,
            "short_pair_probability": config.short_pair_probability,
        } | ({} if config.pair_task == "next" else {"pair_task": config.pair_task})
    return settings


def find_places(
    parent: Path,
    config: DataConfig,
    settings: Mapping[str, Any],
    inventory: Mapping[str, list],
    labels: tuple[str, ...],
) -> Places:
    """The places below `parent`.

    Args:
      settings: the stored settings, as `stored_settings` gives them.
      inventory: paths, sizes and times of the data's files.
      labels: the categories that the config names.
    """
    layout: Layout = settings["layout"]
    key: list[Any] = [FORMAT_VERSION, settings, inventory]
    tokenizer, reading = _tokenizer_key(config, layout), _reading_key(config, layout)

    def place(*parts: Any) -> Path:
        text = json.dumps([*key, *parts], sort_keys=True)
        return parent / f"{layout}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    own = place(*([list(labels)] if labels else []), *tokenizer, *reading)
    unnamed = place(*tokenizer, *reading) if labels else None
    former = place(*tokenizer[:1]) if tokenizer and layout in ("packed", "pairs") else None
    return Places(own, unnamed, former)


def reads_as_before(dataset: Dataset, config: DataConfig, tokenizer: Tokenizer) -> bool:
    """Whether a dataset of version 0.1.0 has the rows that this config and its tokenizer ask for."""
    is_same = canonical_json(tokenizer) == canonical_json(dataset.tokenizer)
    return is_same and not stored_framing(config, tokenizer, dataset.layout)


def stored_framing(config: DataConfig, tokenizer: Tokenizer, layout: Layout) -> dict[str, Any]:
    """How texts are framed and read, but only what version 0.1.0 would have done differently."""
    if layout == "conversations":
        return {}
    if layout == "preferences":
        template = tokenizer.chat_template
        return {} if template is None else {"chat_template": hashlib.sha256(template.encode()).hexdigest()}
    if layout in _EXAMPLE_SETTINGS:
        is_pair = layout == "answers" or (layout == "labelled" and config.pair_column is not None)
        return {"segments": False} if is_pair and not tokenizer.gives_segments else {}
    frames = layout == "packed" and document_frame(tokenizer, config.framing) != document_frame(
        tokenizer, "end"
    )
    return ({"framing": config.framing} if frames else {}) | (
        {"markup": True} if config.reads_markup_in_text else {}
    )


def _tokenizer_key(config: DataConfig, layout: Layout) -> list[list]:
    """Path, size and time of a loaded tokenizer's file, then of the settings files beside it; for
    conversations, and what may be some, also of its chat template."""
    if config.tokenizer in TRAINED:
        return []
    path = Path(config.tokenizer).absolute()
    path = (find_tokenizer(path) or path) if path.is_dir() else path
    beside = (
        (*SETTINGS_FILES, TEMPLATE_FILE) if layout in ("conversations", "preferences") else SETTINGS_FILES
    )
    files = [path, *(path.parent / name for name in beside)]
    found = [file for file in files if file.is_file()]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in found]


def _reading_key(config: DataConfig, layout: Layout) -> list[list]:
    if layout == "conversations":
        return [] if config.reads_markup_in_examples else [["markup", False]]
    if layout in _EXAMPLE_SETTINGS:
        return [["markup", config.reads_markup_in_examples]]
    framing = [["framing", config.framing]] if layout == "packed" and config.tokenizer not in TRAINED else []
    return [*framing, *([["markup", True]] if config.reads_markup_in_text else [])]

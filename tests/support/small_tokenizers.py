"""Small tokenizers of the common kinds, as transformers saves them, for comparing rows."""

import functools
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.roles import Roles
from flaxmill.data.tokenizer.settings import ROLES

TEXT = (
    "The quick brown fox jumps over the lazy dog. A question has an answer in its context, or none at all! "
    "Café prices rose by 3.5% in 2024; who wrote that? Déjà vu: the answer is forty-two."
)
WORDS = TEXT.split()
KINDS = ("bert", "roberta", "gpt2", "llama", "t5")


def draw_texts(seed: int, num: int = 40, longest: int = 30) -> list[str]:
    """Texts of random words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(num)]


@functools.cache
def directory_of(kind: str) -> Path:
    """A directory that transformers' AutoTokenizer and Tokenizer.load read."""
    directory = Path(tempfile.mkdtemp(prefix=f"flaxmill-{kind}-"))
    make: dict[str, Callable[[], tuple[tokenizers.Tokenizer, dict[str, str]]]] = {
        "bert": _bert,
        "roberta": _roberta,
        "gpt2": _gpt2,
        "llama": _llama,
        "t5": _t5,
    }
    inner, specials = make[kind]()
    inner.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **specials}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def ours(kind: str) -> Tokenizer:
    return Tokenizer.load(directory_of(kind) / "tokenizer.json")


@functools.cache
def theirs(kind: str) -> Any:
    """transformers' AutoTokenizer of the same directory."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(directory_of(kind))


def _bert() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[arg-type]
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(inner, trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials, show_progress=False))
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.decoder = decoders.WordPiece()
    return inner, {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def _byte_level(specials: list[str], size: int) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _train(
        inner,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return inner


def _roberta() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    inner = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], 320)
    inner.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return inner, {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}


def _gpt2() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    inner = _byte_level(["<|endoftext|>"], 320)
    inner.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[abstract]
    return inner, {"eos_token": "<|endoftext|>"}


def _llama() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    inner = _byte_level(["<unk>", "<s>", "</s>"], 320)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    return inner, {"bos_token": "<s>", "eos_token": "</s>"}


def _t5() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    _train(inner, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return inner, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def _train(inner: tokenizers.Tokenizer, trainer: Any) -> None:
    inner.train_from_iterator([TEXT] * 4, trainer)


def byte_level(*specials: str) -> tokenizers.Tokenizer:
    """A token for each byte, followed by the special tokens."""
    inner = tokenizers.Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return inner


def write(directory: Path, inner: tokenizers.Tokenizer | None = None, **files: Any) -> None:
    """Write a tokenizer into a directory, and JSON files beside it, named without their suffix."""
    directory.mkdir(exist_ok=True)
    if inner is not None:
        inner.save(str(directory / "tokenizer.json"))
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))


def their_roles(directory: Path) -> Roles:
    """The ids of special tokens in transformers."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)  # it warns about odd directories
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids: list[Any] = [(role, getattr(tokenizer, f"{role}_token_id")) for role in ROLES]
    return {role: id_ for role, id_ in ids if id_ is not None}

"""Tokenizers as files: tokenizer.json, vocab.txt, vocab.json with merges.txt, and SentencePiece models."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from flaxmill.data.tokenizer.sentence_piece import read_sentence_piece
from flaxmill.data.tokenizer.settings import ROLES, TokenizerSettings, token_text

TOKENIZER_NAMES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of a directory that can be read; the first that exists is used."""
LACKS_TOKENIZER = (
    "has no tokenizer.json or vocab.txt, nor vocab.json with merges.txt or a SentencePiece model"
)
READABLE = "a tokenizer.json, vocab.txt, vocab.json with merges.txt, or SentencePiece model"

# Classes of byte-level BPE, and whether their text is normalised first.
_BYTE_LEVEL = {"GPT2Tokenizer": False, "RobertaTokenizer": False, "GPTNeoXTokenizer": True}
_MAX_TOKENS_SHOWN = 5


def find_tokenizer(directory: Path) -> Path | None:
    """The file of a directory that `read_tokenizer` reads, if it has one."""
    found = (directory / name for name in TOKENIZER_NAMES)
    return next((path for path in found if path.is_file()), None)


def read_tokenizer(path: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Reads a file's tokenizer and changes it as the settings beside it say.

    Raises:
      ValueError: the file is none of these, or the settings do not fit it.
      Exception: what the tokenizers library says of a malformed file.
    """
    if path.suffix == ".txt":
        # A line ends at \n alone: pieces of real vocabularies hold U+2028, U+0085 and their like.
        lines = path.read_bytes().decode("utf-8").split("\n")
        pieces = [line.removesuffix("\r") for line in lines]
        tokenizer = word_piece(pieces[:-1] if pieces[-1] == "" else pieces, settings)
    elif path.suffix == ".model":
        tokenizer = (
            read_sentence_piece(path) if stands_alone(path, settings) else _convert_sentence_piece(path)
        )
    elif path.name.endswith("vocab.json"):
        tokenizer = _byte_level(path, settings)
    else:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        _set_casing(tokenizer, settings.values)
    _set_prefix_space(tokenizer, settings)
    _add_tokens(tokenizer, settings)
    return tokenizer


def word_piece(pieces: Sequence[str], settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """BERT's tokenizer: ids are line numbers, and it lower-cases unless the settings say otherwise.

    Raises ValueError where the vocabulary lacks a token that frames texts or stands for unknown ones.
    """
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    names = settings._replace(class_name="BertTokenizer").named_tokens
    if missing := [
        names.get(role, role) for role in ("unk", "cls", "sep") if names.get(role) not in vocabulary
    ]:
        raise ValueError(
            f"the vocabulary of {len(pieces)} lines lacks {', '.join(missing)}; if it spells them otherwise, "
            "name them in a tokenizer_config.json beside it"
        )
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=names["unk"]))  # type: ignore[arg-type]
    tokenizer.normalizer = normalizers.BertNormalizer()
    _set_casing(tokenizer, settings.values)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    specials = dict.fromkeys(name for name in names.values() if name in vocabulary)
    ordered = sorted(specials, key=vocabulary.__getitem__)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ordered])
    return tokenizer


def _set_casing(tokenizer: tokenizers.Tokenizer, values: Mapping[str, Any]) -> None:
    """Applies BERT's settings of its normalizer."""
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    for one in _parts(tokenizer.normalizer, normalizers.Sequence):
        if isinstance(one, normalizers.BertNormalizer):
            for key, field in names.items():
                if key in values:
                    setattr(one, field, values[key])


def _set_prefix_space(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Sets whether a text's first word is read as if after a blank, for classes of byte-level BPE."""
    wanted = settings.values.get("add_prefix_space")
    if settings.class_name not in (*_BYTE_LEVEL, "Qwen2Tokenizer") or wanted is None:
        return
    for one in _parts(tokenizer.pre_tokenizer, pre_tokenizers.Sequence):
        if isinstance(one, pre_tokenizers.ByteLevel):
            one.add_prefix_space = bool(wanted)


def _parts(component: Any, sequence: type) -> list[Any]:
    """The parts of a tokenizer's component if it is a sequence, else itself."""
    return list(component) if isinstance(component, sequence) else [component]


def _add_tokens(tokenizer: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Adds tokens that only the settings name, with the ids that the settings give. Raises ValueError where
    the ids are not the next ones."""
    names = set(settings.named_tokens.values())
    for id_, token in sorted(settings.added_tokens.items()):
        flags = {
            name: token[name] for name in ("lstrip", "rstrip", "single_word", "normalized") if name in token
        }
        text = str(token_text(token))
        is_special = bool(token.get("special", text in names))
        if tokenizer.id_to_token(id_) == text and id_ in tokenizer.get_added_tokens_decoder():
            continue
        add = tokenizer.add_special_tokens if is_special else tokenizer.add_tokens
        add([AddedToken(text, special=is_special, **({"normalized": not is_special} | flags))])
        if tokenizer.token_to_id(text) != id_:
            raise ValueError(
                f"the settings give the added token {text!r:.60} the id {id_}, the tokenizer "
                f"{tokenizer.token_to_id(text)}; correct added_tokens_decoder or added_tokens.json"
            )
    extra = [text for text in _extra_tokens(settings.values) if not _is_special(tokenizer, text)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in extra])


def _extra_tokens(values: Mapping[str, Any]) -> Iterable[str]:
    for name in ("additional_special_tokens", "extra_special_tokens"):
        tokens = values.get(name) or []
        for token in tokens.values() if isinstance(tokens, Mapping) else tokens:
            if text := token_text(token):
                yield text
    # A model's own kinds of tokens, such as image_token.
    named = {f"{role}_token" for role in ROLES}
    for key, token in values.items():
        if key.endswith("_token") and key not in named and (text := token_text(token)):
            yield text


def _is_special(tokenizer: tokenizers.Tokenizer, text: str) -> bool:
    token = tokenizer.get_added_tokens_decoder().get(tokenizer.token_to_id(text) or 0)
    return token is not None and token.content == text and token.special


def _byte_level(path: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Reads GPT-2's form: a vocabulary of bytes and its merges."""
    merges = path.with_name(path.name.replace("vocab.json", "merges.txt"))
    if not merges.is_file():
        if any(path.parent.glob("*.spm")):
            raise ValueError(
                "a Marian pair of source.spm and target.spm is not read; convert it to one tokenizer.json "
                "with the ids of vocab.json"
            )
        raise ValueError(f"{merges.name} is missing beside {path.name}")
    if settings.class_name not in _BYTE_LEVEL:
        known = ", ".join(_BYTE_LEVEL)
        raise ValueError(
            f"{path.name} with {merges.name} is read for the classes {known}, not "
            f"{settings.class_name or 'without a tokenizer_class beside it'}; save a tokenizer.json with "
            "transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE.from_file(str(path), str(merges)))
    if _BYTE_LEVEL[settings.class_name]:
        tokenizer.normalizer = normalizers.NFC()  # type: ignore[abstract]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [name for name in settings.named_tokens.values() if tokenizer.token_to_id(name) is not None]
    ordered = sorted(dict.fromkeys(names), key=lambda name: tokenizer.token_to_id(name) or 0)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ordered])
    if settings.class_name == "RobertaTokenizer":
        cls, sep = (settings.named_tokens[role] for role in ("cls", "sep"))
        cls_id, sep_id = tokenizer.token_to_id(cls), tokenizer.token_to_id(sep)
        if cls_id is None or sep_id is None:
            raise ValueError(f"{path.name} lacks {cls} or {sep}, which frame RoBERTa's texts")
        tokenizer.post_processor = processors.RobertaProcessing(
            (sep, sep_id),
            (cls, cls_id),
            trim_offsets=bool(settings.values.get("trim_offsets", True)),
            add_prefix_space=bool(settings.values.get("add_prefix_space", False)),
        )
    return tokenizer


def stands_alone(path: Path, settings: TokenizerSettings) -> bool:
    """Whether nothing beside a SentencePiece model names a class, which would add to it."""
    return settings.are_absent and not path.with_name("config.json").is_file()


def _convert_sentence_piece(path: Path) -> tokenizers.Tokenizer:
    """A SentencePiece model, converted by transformers, which knows what each class adds to it."""
    try:
        import sentencepiece  # noqa: F401  (transformers reads the file with it, and names neither otherwise)
        import transformers
    except ImportError as error:
        raise ValueError(
            f"{path.name} needs {error.name} to be read; pip install 'flaxmill[sentencepiece]', or save a "
            "tokenizer.json where it is installed"
        ) from None
    converted = transformers.AutoTokenizer.from_pretrained(path.parent, local_files_only=True)
    inner = getattr(converted, "backend_tokenizer", None)
    if not isinstance(inner, tokenizers.Tokenizer):
        raise ValueError(
            f"transformers' {type(converted).__name__} of {path.name} has no tokenizer.json form"
        )
    return tokenizers.Tokenizer.from_str(inner.to_str())


def count_capitals(tokenizer: tokenizers.Tokenizer) -> int:
    """The number of the vocabulary's words that lower-cased text never has."""
    words = (word for word in tokenizer.get_vocab(with_added_tokens=False) if not word.startswith("["))
    return sum(word != word.lower() for word in words)

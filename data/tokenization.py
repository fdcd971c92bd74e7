"""Text to token ids and back: tokenizers that are loaded, or trained so that equal text gives equal ids."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from flaxmill.data.config import DataConfig
from flaxmill.data.draws import TOKENIZER_SAMPLE, uniform
from flaxmill.data.held_out import SplitCorpus

BYTE_LEVEL_SPECIALS = ("<|endoftext|>", "<|mask|>")
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TRAINED = ("bpe", "wordpiece", "bytes")

# Counts of merges settle long before this much text: 2 KiB for each entry of the vocabulary.
_SAMPLE_BYTES_PER_ENTRY = 2048
_MAX_WORDPIECE_ALPHABET = 1000
_MIN_WORDPIECE_VOCABULARY = 128

_PAD_NAMES = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
_END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


class Tokenizer:
    """A tokenizers.Tokenizer that never reads special tokens out of text, with the ids that data needs."""

    def __init__(self, inner: tokenizers.Tokenizer):
        self.inner = inner
        # Text that spells "<|endoftext|>" must not end a document.
        inner.encode_special_tokens = True
        inner.no_padding()
        inner.no_truncation()
        self.pad_id = self._find(_PAD_NAMES)
        self.mask_id = self._find(_MASK_NAMES)
        # RoBERTa spells [CLS] and [SEP] as <s> and </s>; a causal model's <s> is no [CLS].
        is_roberta = inner.token_to_id("<mask>") is not None
        self.cls_id = self._find(("[CLS]", "<s>") if is_roberta else ("[CLS]",))
        self.sep_id = self._find(("[SEP]", "</s>") if is_roberta else ("[SEP]",))
        self.end_id = None if self.cls_id is not None else self._find(_END_NAMES)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without special tokens."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As encode, on all cores."""
        encodings = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], skip_specials: bool = True) -> str:
        """Text of the ids; special tokens are left out or spelled."""
        return self.inner.decode([int(id_) for id_ in ids], skip_special_tokens=skip_specials)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: what an embedding needs before padding."""
        return self._largest_id + 1

    @cached_property
    def _largest_id(self) -> int:
        return max(self.inner.get_vocab(with_added_tokens=True).values())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are never text: they are not masked and not counted."""
        added = self.inner.get_added_tokens_decoder()
        special = {id_ for id_, token in added.items() if token.special}
        named = (self.pad_id, self.mask_id, self.cls_id, self.sep_id, self.end_id)
        return frozenset(special | {id_ for id_ in named if id_ is not None})

    def to_json(self) -> str:
        """The tokenizer.json of the Hugging Face ecosystem."""
        return self.inner.to_str()

    def save(self, path: str | os.PathLike) -> None:
        """Writes tokenizer.json."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a tokenizer.json or a vocab.txt. Raises ValueError where it is neither."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(
                f"data.tokenizer={str(path)!r} is no file; use bpe, wordpiece, bytes, "
                "or the path of a tokenizer.json or vocab.txt"
            )
        try:
            if path.suffix == ".txt":
                return cls(_from_vocabulary(path.read_text(encoding="utf-8").splitlines()))
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except Exception as error:  # tokenizers raises bare Exception for a malformed file
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"data.tokenizer={str(path)!r} cannot be read ({reason}); give a tokenizer.json or vocab.txt"
            ) from None

    @property
    def closing_id(self) -> int | None:
        """What ends a text: [SEP] where texts are framed in [CLS] and [SEP], else the end token."""
        return self.end_id if self.cls_id is None else self.sep_id

    def _find(self, names: Sequence[str]) -> int | None:
        found = (self.inner.token_to_id(name) for name in names)
        return next((id_ for id_ in found if id_ is not None), None)


def make_tokenizer(config: DataConfig, corpus: SplitCorpus, log: Callable[[str], None]) -> Tokenizer:
    """Loads the config's tokenizer, or trains it on a sample of the training split."""
    if config.tokenizer not in TRAINED:
        return Tokenizer.load(config.tokenizer)
    if config.tokenizer == "bytes":
        return Tokenizer(_train_byte_level([], len(_byte_alphabet()) + len(BYTE_LEVEL_SPECIALS)))
    check_vocab_size(config)
    log(f"training a {config.tokenizer} tokenizer of {config.vocab_size} entries on {corpus.name}")
    train = _train_byte_level if config.tokenizer == "bpe" else _train_wordpiece
    return Tokenizer(train(list(_sample(config, corpus)), config.vocab_size))


def check_vocab_size(config: DataConfig) -> None:
    """Raises ValueError where a tokenizer cannot be trained to the size asked for."""
    least, reason = {
        "bpe": (len(_byte_alphabet()) + len(BYTE_LEVEL_SPECIALS), "256 bytes and 2 special tokens"),
        "wordpiece": (_MIN_WORDPIECE_VOCABULARY, "5 special tokens and both forms of the commonest letters"),
    }.get(config.tokenizer, (1, ""))
    if config.vocab_size < least:
        raise ValueError(
            f"data.vocab_size={config.vocab_size} is too small for data.tokenizer={config.tokenizer}, "
            f"which needs {reason}; use {least} or more"
        )


def _sample(config: DataConfig, corpus: SplitCorpus) -> Iterator[str]:
    """Training documents: all of a small corpus, else a drawn share with a bounded sum."""
    share = min(1.0, config.vocab_size * _SAMPLE_BYTES_PER_ENTRY / max(corpus.num_bytes, 1))
    for number, (split, document) in enumerate(corpus.documents()):
        if split == "train" and (share == 1.0 or uniform(TOKENIZER_SAMPLE, number)[0] < share):
            yield document.text


def _byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _train_byte_level(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte-level BPE (Radford et al. 2019); the explicit alphabet makes ids independent of the text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BYTE_LEVEL_SPECIALS),
        initial_alphabet=_byte_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_wordpiece(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Uncased WordPiece in BERT's format.

    Left alone, the trainer numbers the "##c" pieces in the order of a hash map, and ties between merges
    follow those numbers: two runs differ. Giving them in order, before training, fixes every number.
    """
    alphabet = _frequent_characters(texts, min(_MAX_WORDPIECE_ALPHABET, vocab_size // 8))
    initial = [*WORDPIECE_SPECIALS, *alphabet, *(f"##{character}" for character in alphabet)]
    scratch = _bert_tokenizer(models.WordPiece(unk_token="[UNK]"), lowercase=True)  # type: ignore[arg-type]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=initial,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    scratch.train_from_iterator(texts, trainer)
    # The scratch tokenizer treats "##c" as special tokens; only its vocabulary is wanted.
    vocabulary = scratch.get_vocab()
    return _from_vocabulary(sorted(vocabulary, key=vocabulary.__getitem__), lowercase=True)


def _frequent_characters(texts: list[str], limit: int) -> list[str]:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-count, character) for character, count in counts.items() if not character.isspace())
    return sorted(character for _, character in ranked[:limit])


def _from_vocabulary(pieces: list[str], lowercase: bool | None = None) -> tokenizers.Tokenizer:
    """A BERT tokenizer whose ids are line numbers; a vocabulary without capitals lower-cases its text."""
    vocabulary = {piece.rstrip("\r\n"): number for number, piece in enumerate(pieces)}
    if missing := [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in vocabulary]:
        raise ValueError(f"the vocabulary of {len(pieces)} lines lacks {', '.join(missing)}")
    if lowercase is None:
        words = (piece for piece in vocabulary if not (piece.startswith("[") and piece.endswith("]")))
        lowercase = not any(piece != piece.lower() for piece in words)
    tokenizer = _bert_tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"), lowercase)  # type: ignore[arg-type]
    specials = [name for name in WORDPIECE_SPECIALS if name in vocabulary]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def _bert_tokenizer(model: models.Model, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def canonical_json(tokenizer: Tokenizer) -> str:
    """Equal for equal tokenizers whatever the order of their file's keys: what a fingerprint hashes."""
    return json.dumps(json.loads(tokenizer.to_json()), sort_keys=True, ensure_ascii=False)


def special_lookup(tokenizer: Tokenizer) -> np.ndarray:
    """A bool for each id: whether it is special."""
    lookup = np.zeros(tokenizer.vocab_size, bool)
    lookup[list(tokenizer.special_ids)] = True
    return lookup

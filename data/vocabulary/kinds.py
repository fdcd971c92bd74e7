"""The kinds of tokenizers that can be trained: byte-level BPE, WordPiece and Unigram."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from flaxmill.data.tokenizer.reading import word_piece
from flaxmill.data.tokenizer.settings import TokenizerSettings
from flaxmill.data.vocabulary import unigram

Kind = Literal["bpe", "wordpiece", "unigram"]

BYTE_LEVEL_SPECIALS = ("<|endoftext|>", "<|mask|>")
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNIGRAM_SPECIALS = ("<pad>", "</s>", "<unk>", "<s>", "<mask>")
"""T5's three at T5's ids, and what RoBERTa's rows need."""

_MAX_WORDPIECE_ALPHABET = 1000
_NUM_BYTES = 256

LEAST_SIZES: dict[Kind, tuple[int, str]] = {
    "bpe": (_NUM_BYTES + len(BYTE_LEVEL_SPECIALS), "256 bytes and 2 special tokens"),
    "wordpiece": (128, "5 special tokens and both forms of the commonest letters"),
    "unigram": (320, "5 special tokens, 256 bytes and the commonest letters"),
}
"""The least size of a vocabulary, and what needs it."""

_BLANK = "▁"
# Words begin with their blank; of several blanks the last belongs to the word. Letters, digits and other
# signs are apart, so that no piece can spell a special token or a byte.
_WORDS = (
    r"▁+(?=▁)|▁?[\p{L}\p{M}]+|▁?\p{N}+"  # letters, then digits
    r"|▁?[^\s\p{L}\p{M}\p{N}▁]+|\s+|."  # other signs, then white space
)


def train_byte_level(texts: list[str], vocab_size: int, lowercase: bool = False) -> tokenizers.Tokenizer:
    """Byte-level BPE (Radford et al. 2019); the explicit alphabet makes ids independent of the text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[abstract]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BYTE_LEVEL_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_wordpiece(texts: list[str], vocab_size: int, lowercase: bool = True) -> tokenizers.Tokenizer:
    """WordPiece in BERT's format, uncased or cased.

    Left alone, the trainer numbers the "##c" pieces in the order of a hash map, and ties between merges
    follow those numbers: two runs differ. Giving them in order, before training, fixes every number.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    alphabet = _frequent_characters(texts, normalizer, min(_MAX_WORDPIECE_ALPHABET, vocab_size // 8))
    initial = [*WORDPIECE_SPECIALS, *alphabet, *(f"##{character}" for character in alphabet)]
    scratch = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[arg-type]
    scratch.normalizer = normalizer
    scratch.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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
    settings = TokenizerSettings() if lowercase else TokenizerSettings({"do_lower_case": False})
    return word_piece(sorted(vocabulary, key=vocabulary.__getitem__), settings)


def train_unigram(texts: Iterable[str], vocab_size: int, lowercase: bool = False) -> tokenizers.Tokenizer:
    """Unigram in SentencePiece's form, with bytes for characters that it lacks: no text is unknown, and
    decoding gives the text back (a U+2581 in it becomes a blank).

    Raises ValueError where the text's alphabet does not fit.
    """
    splitter = pre_tokenizers.Sequence(  # type: ignore[abstract]
        [
            pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="never", split=False),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        ]
    )
    words: Counter[str] = Counter()
    for text in texts:
        cased = text.lower() if lowercase else text
        words.update(word for word, _ in splitter.pre_tokenize_str(cased))
    alphabet = unigram.find_alphabet(words)
    around = [*UNIGRAM_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(_NUM_BYTES))]
    if vocab_size < len(around) + len(alphabet):
        raise ValueError(
            f"a unigram vocabulary of {vocab_size} entries is too small for the text, whose alphabet of "
            f"{len(alphabet)} characters comes beside {len(around)} special tokens and bytes; use "
            f"{len(around) + len(alphabet)} or more, or bpe, which needs {LEAST_SIZES['bpe'][0]} for any text"
        )
    pieces = unigram.train_unigram(words, alphabet, vocab_size - len(around)) if words else []
    entries = [*((name, 0.0) for name in around), *pieces]
    tokenizer = tokenizers.Tokenizer(
        models.Unigram(entries, unk_id=UNIGRAM_SPECIALS.index("<unk>"), byte_fallback=True)  # type: ignore[arg-type]
    )
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[abstract]
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Sequence(  # type: ignore[abstract]
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in UNIGRAM_SPECIALS]
    )
    return tokenizer


def _frequent_characters(texts: list[str], normalizer: normalizers.BertNormalizer, limit: int) -> list[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-count, character) for character, count in counts.items() if not character.isspace())
    return sorted(character for _, character in ranked[:limit])

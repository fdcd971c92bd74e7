"""A dataset's tokenizer: loaded, or trained so that equal text gives equal ids."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.draws import TOKENIZER_SAMPLE, uniform
from flaxmill.data.text.held_out import SplitCorpus
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import count_capitals, word_piece
from flaxmill.data.tokenizer.settings import TokenizerSettings

BYTE_LEVEL_SPECIALS = ("<|endoftext|>", "<|mask|>")
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Counts of merges settle long before this much text: 2 KiB for each entry of the vocabulary.
_SAMPLE_BYTES_PER_ENTRY = 2048
_MAX_WORDPIECE_ALPHABET = 1000
_MIN_WORDPIECE_VOCABULARY = 128
# An uncased vocabulary has a few capitals, in names; in a cased one a third of the words have them.
_CASED_SHARE = 0.1


def make_tokenizer(
    config: DataConfig, corpus: SplitCorpus, log: Callable[[str], None], added_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Loads the config's tokenizer, or trains it on a sample of the training split.

    Args:
      added_tokens: special tokens that a trained tokenizer gets after its vocabulary.
    """
    if config.tokenizer not in TRAINED:
        return load_tokenizer(config, log)
    inner = _train(config, corpus, log)
    inner.add_special_tokens(list(added_tokens))
    return Tokenizer(inner)


def _train(config: DataConfig, corpus: SplitCorpus, log: Callable[[str], None]) -> tokenizers.Tokenizer:
    if config.tokenizer == "bytes":
        return _train_byte_level([], len(_byte_alphabet()) + len(BYTE_LEVEL_SPECIALS))
    check_vocab_size(config)
    log(f"training a {config.tokenizer} tokenizer of {config.vocab_size} entries on {corpus.name}")
    train = _train_byte_level if config.tokenizer == "bpe" else _train_wordpiece
    return train(list(_sample(config, corpus)), config.vocab_size)


def load_tokenizer(config: DataConfig, log: Callable[[str], None]) -> Tokenizer:
    """The tokenizer of a file, with roles as data.framing asks. Raises ValueError if it cannot be read."""
    tokenizer = Tokenizer.load(config.tokenizer, by_spelling=config.framing == "spelled")
    if unknown := tokenizer.unknown_settings:
        keys = ", ".join(unknown)
        log(f"{config.tokenizer}: tokenizer_config.json has keys that are not known here: {keys}")
    guesses_case = Path(config.tokenizer).suffix == ".txt" and "do_lower_case" not in tokenizer.settings
    share = count_capitals(tokenizer.inner) / tokenizer.inner.get_vocab_size()
    if guesses_case and share > _CASED_SHARE:
        log(
            f"{config.tokenizer}: {share:.0%} of the pieces have capitals, but texts are lower-cased, as "
            'transformers does; if it is a cased vocabulary put {"do_lower_case": false} into a '
            "tokenizer_config.json beside it"
        )
    return tokenizer


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
    scratch = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[arg-type]
    scratch.normalizer = normalizers.BertNormalizer()
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
    return word_piece(sorted(vocabulary, key=vocabulary.__getitem__), TokenizerSettings())


def _frequent_characters(texts: list[str], limit: int) -> list[str]:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-count, character) for character, count in counts.items() if not character.isspace())
    return sorted(character for _, character in ranked[:limit])

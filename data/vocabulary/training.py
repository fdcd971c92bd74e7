"""A dataset's tokenizer: loaded, or trained so that equal text gives equal ids."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import tokenizers

from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.conversations.chatml import without_marks
from flaxmill.data.draws import TOKENIZER_SAMPLE, uniform
from flaxmill.data.messages import require
from flaxmill.data.text.held_out import SplitCorpus
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import count_capitals
from flaxmill.data.vocabulary.kinds import LEAST_SIZES, Kind, train_byte_level, train_unigram, train_wordpiece

# Counts of merges settle long before this much text: 2 KiB for each entry of the vocabulary.
SAMPLE_BYTES_PER_ENTRY = 2048
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
    if config.tokenizer == "bytes":
        inner = train_byte_level([], LEAST_SIZES["bpe"][0])
    else:
        check_vocab_size(config)
        log(f"training a {config.tokenizer} tokenizer of {config.vocab_size} entries on {corpus.name}")
        lowercase = config.tokenizer == "wordpiece"
        inner = train(config.tokenizer, list(sample_training(config, corpus)), config.vocab_size, lowercase)  # type: ignore[arg-type]
    inner.add_special_tokens(list(added_tokens))
    return Tokenizer(inner)


def train(kind: Kind, texts: list[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """Trains a tokenizer of at most `vocab_size` entries. Raises ValueError where they are too few."""
    train_kind = {"bpe": train_byte_level, "wordpiece": train_wordpiece, "unigram": train_unigram}[kind]
    return train_kind(texts, vocab_size, lowercase)


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
    if config.tokenizer in get_args(Kind):
        check_size(config.vocab_size, config.tokenizer, "data.vocab_size", "data.tokenizer")  # type: ignore[arg-type]


def check_size(size: int, kind: Kind, size_field: str, kind_field: str) -> None:
    """Raises ValueError, naming both fields, where a tokenizer of this kind cannot be so small."""
    least, reason = LEAST_SIZES[kind]
    require(
        size >= least,
        f"{size_field}={size} is too small for {kind_field}={kind}, which needs {reason}; use {least} or "
        "more",
    )


def sample_training(config: DataConfig, corpus: SplitCorpus) -> Iterator[str]:
    """Training documents: all of a small corpus, else a drawn share with a bounded sum."""
    share = min(1.0, config.vocab_size * SAMPLE_BYTES_PER_ENTRY / max(corpus.num_bytes, 1))
    for number, (split, document) in enumerate(corpus.documents()):
        if split == "train" and (share == 1.0 or uniform(TOKENIZER_SAMPLE, number)[0] < share):
            yield document.text if document.targets is None else without_marks(document.text)

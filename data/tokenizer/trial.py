"""The first reading of a tokenizer, run as a program of its own (trials.py)."""

from pathlib import Path

from flaxmill.data.tokenizer.failures import is_panic
from flaxmill.data.tokenizer.reading import read_tokenizer, stands_alone
from flaxmill.data.tokenizer.roles import template_frame
from flaxmill.data.tokenizer.settings import read_settings
from flaxmill.data.tokenizer.trials import trial

# Texts that a tokenizer's patterns and tables may stumble over.
_TEXTS = (
    "",
    "The quick brown fox jumps over 13 lazy dogs, isn't it?\n\n  Déjà vu: Straße, Ελλάδα, мир, 東京 🙂 ",
    "e\u0301\u00a0\u2028\t",
    "a" * 200,
    "a" * 40 + "!",
    " " * 200 + "0123456789" * 10 + "!?" * 50,
    "[CLS] [MASK] <s> </s> <|endoftext|> <unk>",
)


def read_and_use(path: Path) -> None:
    """Uses a tokenizer once. Raises what the tokenizers library does, unless it refuses a text in words."""
    settings = read_settings(path.parent)
    if path.suffix == ".model" and not stands_alone(path, settings):
        _read_sentence_piece(path)
        return
    tokenizer = read_tokenizer(path, settings)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    template_frame(tokenizer)
    for text in _TEXTS:
        for pair in (None, "a pair"):
            try:
                ids = tokenizer.encode(text, pair).ids
                tokenizer.decode(ids, skip_special_tokens=False)
            except BaseException as error:
                if is_panic(error) or isinstance(error, MemoryError):
                    raise
    tokenizer.to_str()


def _read_sentence_piece(path: Path) -> None:
    """Reads the model alone: its converter, in transformers, takes seconds to load, and is in Python."""
    try:
        import sentencepiece
    except ImportError:  # reported where the file is read
        return
    sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(list(_TEXTS))


if __name__ == "__main__":
    trial(read_and_use)

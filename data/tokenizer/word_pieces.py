"""Which pieces of a tokenizer belong to one word, told from the vocabulary alone."""

import json
import re
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

_META_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# Scripts that are written without blanks between words: each piece is a word.
_NO_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


class WordPieces(NamedTuple):
    """A piece belongs to the word of the piece before it if it continues a word and that one leaves it open.

    Both are bool [vocabulary].
    """

    continues: np.ndarray
    leaves_open: np.ndarray

    def joined(self, tokens: np.ndarray) -> np.ndarray:
        """Bool [n,T]: whether each token of rows [n,T] belongs to the word of the token before it."""
        joined = self.continues[tokens]
        joined[:, 0] = False
        joined[:, 1:] &= self.leaves_open[tokens[:, :-1]]
        return joined


def find_word_pieces(inner: tokenizers.Tokenizer) -> WordPieces:
    """Words as the tokenizer's pieces spell them.

    WordPiece marks what continues a word (##), GPT's first BPE what ends one (</w>). Byte-level BPE and
    SentencePiece mark the blank before a word: there letters and digits without a blank continue a word, and
    punctuation and line ends are words of their own, as BERT's are. A tokenizer of whole words has no others.
    """
    settings = json.loads(inner.to_str())
    model = settings["model"]
    pieces = [""] * (max(inner.get_vocab(with_added_tokens=True).values()) + 1)
    for piece, id_ in inner.get_vocab(with_added_tokens=False).items():
        pieces[id_] = piece
    if model["type"] == "WordLevel":
        return WordPieces(np.zeros(len(pieces), bool), np.zeros(len(pieces), bool))
    if prefix := model.get("continuing_subword_prefix"):
        continues = np.array([piece.startswith(prefix) for piece in pieces])
        return WordPieces(continues, np.ones(len(pieces), bool))
    if suffix := model.get("end_of_word_suffix"):
        ends = np.array([piece.endswith(suffix) for piece in pieces])
        return WordPieces(np.ones(len(pieces), bool), ~ends)
    spell = _bytes_of_alphabet if _has_byte_level(settings) else _bytes_of_text
    spelled = [spell(piece) for piece in pieces]
    return WordPieces(
        np.array([_continues(bytes_) for bytes_ in spelled]),
        np.array([_leaves_open(bytes_) for bytes_ in spelled]),
    )


def _has_byte_level(settings: dict[str, Any]) -> bool:
    parts = (settings.get("pre_tokenizer"), settings.get("decoder"))
    return any('"ByteLevel"' in json.dumps(part) for part in parts)


def _bytes_of_alphabet(piece: str) -> bytes:
    """The bytes that a piece of byte-level BPE stands for; a character outside its alphabet is itself."""
    return b"".join(_ALPHABET.get(character) or character.encode() for character in piece)


def _bytes_of_text(piece: str) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(_META_SPACE, " ").encode("utf-8", "replace")


def _make_alphabet() -> dict[str, bytes]:
    """Radford et al. 2019: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    alphabet |= {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
    assert alphabet.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet


_ALPHABET = _make_alphabet()


def _continues(piece: bytes) -> bool:
    """Whether it begins with a letter or digit, or with a part of a character that may be one."""
    if not piece:
        return False
    # The rest of a character, or the first of two bytes: nearly all such characters are letters.
    if 0x80 <= piece[0] < 0xC0 or (len(piece) == 1 and 0xC3 <= piece[0] < 0xE0):
        return True
    return _is_wordly(piece.decode("utf-8", "ignore")[:1])


def _leaves_open(piece: bytes) -> bool:
    """Whether it ends with a letter or digit or inside a character, or is the blank before a word."""
    text = piece.decode("utf-8", "replace")
    return bool(text) and (text == " " or text.endswith("\ufffd") or _is_wordly(text[-1]))


def _is_wordly(character: str) -> bool:
    return character.isalnum() and not is_written_without_blanks(character)


def is_written_without_blanks(character: str) -> bool:
    """Whether the character's script puts no blanks between words."""
    return bool(_NO_BLANKS.match(character))

"""Words are told from pieces, for each kind of vocabulary."""

import numpy as np
import pytest
import tokenizers
from small_tokenizers import directory_of
from tokenizers import decoders, models, pre_tokenizers

from flaxmill.data.tokenizer.reading import word_piece
from flaxmill.data.tokenizer.settings import TokenizerSettings
from flaxmill.data.tokenizer.word_pieces import find_word_pieces


def words_of(inner, pieces):
    """The pieces as words, joined as the table says."""
    ids = np.array([[inner.token_to_id(piece) for piece in pieces]])
    joined = find_word_pieces(inner).joined(ids)[0]
    words: list[str] = []
    for piece, is_joined in zip(pieces, joined, strict=True):
        words = [*words[:-1], words[-1] + piece] if is_joined else [*words, piece]
    return words


def byte_level(pieces):
    inner = tokenizers.Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def test_wordpiece_marks_what_continues_a_word():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mask", "##ing", "##s", ".", "a"]
    inner = word_piece(pieces, TokenizerSettings())
    assert words_of(inner, ["mask", "##ing", "##s", ".", "a"]) == ["mask##ing##s", ".", "a"]
    assert words_of(inner, ["##ing", "a"]) == ["##ing", "a"]  # a row may begin inside a word


def test_byte_level_words_begin_at_blanks_line_ends_and_punctuation():
    pieces = ["Ġmask", "ing", ".", "Ċ", "New", "Ġ", "x1", "ĠĠĠ", "def"]
    inner = byte_level(pieces)
    assert words_of(inner, pieces) == ["Ġmasking", ".", "Ċ", "New", "Ġx1", "ĠĠĠ", "def"]


def test_a_character_of_several_bytes_is_never_torn():
    pieces = ["Ġsch", "Ã", "¶", "n"]  # "schön", its third letter as two pieces
    assert words_of(byte_level(pieces), pieces) == ["ĠschÃ¶n"]


def test_scripts_without_blanks_have_a_word_for_each_piece():
    alphabet = {byte: chr(n) for byte, n in _byte_characters().items()}
    pieces = ["".join(alphabet[byte] for byte in word.encode()) for word in ("天", "气", "很好")]
    assert words_of(byte_level(pieces), pieces) == pieces


def _byte_characters():
    inner = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = {}
    for character in "天气很好":
        spelled = inner.pre_tokenize_str(character)[0][0]
        found |= dict(zip(character.encode(), map(ord, spelled), strict=True))
    return found


def test_sentencepiece_words_begin_at_its_blank():
    pieces = ["▁mask", "ing", ",", "▁", "<0xC3>", "<0xB6>", "l", "<0x0A>", "new"]
    inner = tokenizers.Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], 0, False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    assert words_of(inner, pieces) == ["▁masking", ",", "▁<0xC3><0xB6>l", "<0x0A>", "new"]


def test_the_first_bpe_marks_what_ends_a_word():
    pieces = ["mask", "ing</w>", "a</w>"]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    assert words_of(inner, pieces) == ["masking</w>", "a</w>"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_pieces_of_a_text_make_its_words(name):
    inner = tokenizers.Tokenizer.from_file(str(directory_of(name) / "tokenizer.json"))
    encoding = inner.encode("The quick brown fox wrote.", add_special_tokens=False)
    joined = find_word_pieces(inner).joined(np.array([encoding.ids]))[0]
    text, words = "The quick brown fox wrote.", []
    for (start, end), is_joined in zip(encoding.offsets, joined, strict=True):
        words = [*words[:-1], words[-1] + text[start:end]] if is_joined else [*words, text[start:end]]
    assert [word.strip() for word in words] == ["The", "quick", "brown", "fox", "wrote", "."]

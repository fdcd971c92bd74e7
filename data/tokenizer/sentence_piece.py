"""Reads a SentencePiece model that stands alone, from its own file format and with no library of its own.

A model beside a tokenizer_config.json or config.json is converted by transformers instead, which knows what
each class adds to it.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from flaxmill.data.messages import require

# The numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_BLANKS, _ESCAPE_BLANKS = 2, 3, 4, 5
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

_BLANK = "▁"
Fields = dict[int, list[Any]]


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def read_sentence_piece(path: Path) -> tokenizers.Tokenizer:
    """The model's tokenizer: its ids are those of SentencePiece's own `encode`, which adds no special token.

    Raises ValueError where the file is no model, or one of a kind that is not read.
    """
    fields = _parse(path.read_bytes())
    require(bool(fields.get(_PIECES)), "it is no SentencePiece model")
    pieces = [_read_piece(_parse(data)) for data in fields[_PIECES]]
    trainer, normalizer = (_parse(fields.get(number, [b""])[-1]) for number in (_TRAINER, _NORMALIZER))
    _check(pieces, trainer, normalizer)
    is_bpe = _last(trainer, _MODEL_TYPE, _UNIGRAM) == _BPE
    has_bytes = bool(_last(trainer, _BYTE_FALLBACK, 0))
    tokenizer = tokenizers.Tokenizer((_make_bpe if is_bpe else _make_unigram)(pieces, has_bytes))
    # Where SentencePiece looks for them, blanks are U+2581.
    own = [piece.text for piece in pieces if piece.kind == _USER_DEFINED and " " not in piece.text]
    _set_normalizer(tokenizer, normalizer, has_own=bool(own))
    if not is_bpe:
        _keep_specials_apart(tokenizer, pieces)
    has_prefix = bool(_last(normalizer, _DUMMY_PREFIX, 1))
    tokenizer.decoder = decoders.Sequence(  # type: ignore[abstract]
        [
            *(decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()),
            *([decoders.Strip(" ", 1, 0)] if has_prefix else []),
        ]
    )
    specials = [piece.text for piece in pieces if piece.kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=True) for text in own])
    return tokenizer


def _check(pieces: Sequence[_Piece], trainer: Fields, normalizer: Fields) -> None:
    refused = {
        "words or characters as its pieces": _last(trainer, _MODEL_TYPE, _UNIGRAM) not in (_UNIGRAM, _BPE),
        "blanks at the end of its pieces": bool(_last(trainer, _SUFFIX, 0)),
        "blanks that are not escaped": not _last(normalizer, _ESCAPE_BLANKS, 1),
        "no piece of text": not any(piece.kind in (_NORMAL, _USER_DEFINED, _BYTE) for piece in pieces),
        "unused pieces": any(piece.kind == _UNUSED for piece in pieces),
        "no unknown piece, or several": sum(piece.kind == _UNKNOWN for piece in pieces) != 1,
        "one piece twice": len({piece.text for piece in pieces}) < len(pieces),
    }
    if found := [what for what, is_so in refused.items() if is_so]:
        raise ValueError(f"a SentencePiece model with {found[0]} is not read; convert it to a tokenizer.json")


def _make_unigram(pieces: Sequence[_Piece], has_bytes: bool) -> models.Model:
    unknown = next(number for number, piece in enumerate(pieces) if piece.kind == _UNKNOWN)
    entries = [(piece.text, piece.score) for piece in pieces]
    return models.Unigram(entries, unk_id=unknown, byte_fallback=has_bytes)  # type: ignore[arg-type]


def _make_bpe(pieces: Sequence[_Piece], has_bytes: bool) -> models.Model:
    """A merge for every way to make a piece of two; the piece's score ranks it."""
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    normal = {piece.text: piece.score for piece in pieces if piece.kind == _NORMAL}
    merges = [
        (-score, vocabulary[text[:cut]], vocabulary[text[cut:]], text[:cut], text[cut:])
        for text, score in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    unknown = next(piece.text for piece in pieces if piece.kind == _UNKNOWN)
    return models.BPE(
        vocabulary,
        [(left, right) for *_, left, right in sorted(merges)],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=has_bytes,
    )


def _set_normalizer(tokenizer: tokenizers.Tokenizer, fields: Fields, has_own: bool) -> None:
    """Characters are mapped, blanks are taken away, the first word gets one, and all are written as U+2581.

    A piece that the model's user has defined may stand before a word, which then gets no blank; a text that
    begins with such a piece gets none at all, where SentencePiece gives one.
    """
    steps: list[Any] = []
    if character_map := _last(fields, _CHARACTER_MAP, b""):
        steps.append(normalizers.Precompiled(character_map))
    if _last(fields, _REMOVE_BLANKS, 1):
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if _last(fields, _DUMMY_PREFIX, 1) and has_own:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_BLANK, prepend_scheme="first", split=False)
    elif _last(fields, _DUMMY_PREFIX, 1):
        steps.append(normalizers.Prepend(_BLANK))
    steps.append(normalizers.Replace(" ", _BLANK))
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[abstract]


def _keep_specials_apart(tokenizer: tokenizers.Tokenizer, pieces: Sequence[_Piece]) -> None:
    """Cuts text that spells a control piece or a byte in two: SentencePiece never reads text as these, and
    the model of the tokenizers library would."""
    known = {piece.text for piece in pieces if piece.kind == _NORMAL}
    spelled = [
        piece.text for piece in pieces if piece.kind in (_CONTROL, _UNKNOWN, _BYTE) and len(piece.text) > 1
    ]
    pattern = "|".join(_cut_pattern(text, known) for text in spelled)
    splits = [pre_tokenizers.Split(Regex(pattern), "merged_with_previous")] if spelled else []
    if before := tokenizer.pre_tokenizer:
        splits.insert(0, before)
    if splits:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)  # type: ignore[abstract]


def _cut_pattern(text: str, known: AbstractSet[str]) -> str:
    """Matches the text up to a cut beside a known character: unknown ones are one piece together."""
    cuts = range(1, len(text))
    cut = next((cut for cut in cuts if text[cut - 1] in known or text[cut] in known), 1)
    return f"{re.escape(text[:cut])}(?={re.escape(text[cut:])})"


def _read_piece(fields: Fields) -> _Piece:
    try:
        text = bytes(_last(fields, 1, b"")).decode()
    except (UnicodeDecodeError, TypeError):
        raise ValueError("it is no SentencePiece model") from None
    score, kind = _last(fields, 2, 0.0), _last(fields, 3, _NORMAL)
    require(isinstance(score, float) and isinstance(kind, int), "it is no SentencePiece model")
    return _Piece(text, score, kind)


def _last(fields: Fields, number: int, default: Any) -> Any:
    return fields.get(number, [default])[-1]


def _parse(data: Any) -> Fields:
    """{number: values} of a message of protocol buffers. Raises ValueError where it is none."""
    require(isinstance(data, bytes), "it is no SentencePiece model")
    found: Fields = {}
    try:
        for number, value in _fields(data):
            found.setdefault(number, []).append(value)
    except (IndexError, struct.error):
        raise ValueError("it is no SentencePiece model, or cut short") from None
    return found


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        match key & 7:
            case 0:
                value, place = _read_varint(data, place)
            case 1:
                (value,), place = struct.unpack_from("<d", data, place), place + 8
            case 2:
                length, place = _read_varint(data, place)
                value, place = data[place : place + length], place + length
                if place > len(data):
                    raise IndexError(place)
            case 5:
                (value,), place = struct.unpack_from("<f", data, place), place + 4
            case _:
                raise IndexError(place)
        yield key >> 3, value


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise IndexError(place)

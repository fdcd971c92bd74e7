"""Cuts texts into the words that a tokenizer encodes one by one, exactly as the tokenizers library does."""

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import tokenizers

Cut = Callable[[str], list[str] | None]
"""The words of a text in their order, which the library encodes alone as it does in the text; None: only the
library can tell them."""

# The classes stand in brackets, so that their characters can be put in.
_GPT_2 = r" ?[\p{L}]+| ?[\p{N}]+|'(?:s|t|re|ve|m|ll|d)| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+"
_GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+"
)
_SPLITS = {
    # cl100k_base and Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": _GPT_4,
    # Qwen 2 and 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": _GPT_4.replace("{1,3}", ""),
}
# BERT's words never hold a blank or a line's end; what stands between two of these is several words at most.
_BERT = r"[^ \n]+"
_ASCII = {r"\p{L}": "A-Za-z", r"\p{N}": "0-9", r"\s": r"\t-\r "}
_WIDE_BLANKS = r"\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# What patterns tell apart, in all neighbourhoods of three.
_TELLING = "asl19' \t\r\n!\\"
_CONTRACTIONS = "it's we're I'VE I'm she'll I'd 'tis 'twas rock'n'roll '' '  'll's"


def find_cut(inner: tokenizers.Tokenizer) -> Cut | None:
    """What cuts texts for this tokenizer; None where only the library is known to cut them rightly.

    It cuts for byte-level BPE with the patterns of GPT-2, GPT-4, Llama 3 and Qwen, and for BERT's WordPiece.
    """
    model, normalizer = inner.model, _describe(inner.normalizer)
    before = _describe(inner.pre_tokenizer)
    if before.get("type") == "BertPreTokenizer" and normalizer.get("type") in (None, "BertNormalizer"):
        return re.compile(_BERT).findall if isinstance(model, tokenizers.models.WordPiece) else None
    template = _find_template(before)
    if template is None or not isinstance(model, tokenizers.models.BPE) or model.dropout:
        return None
    if normalizer.get("type") not in (None, "NFC"):
        return None
    cutter = _Cutter(inner, template, is_wide=not normalizer)  # NFC leaves ASCII alone, and nothing more
    return cutter.cut if cutter.agrees() else None


def _describe(part: Any) -> dict[str, Any]:
    """What tokenizer.json says of a normalizer or a pre-tokenizer; nothing where there is none."""
    return {} if part is None else json.loads(part.__getstate__())


def _find_template(before: dict[str, Any]) -> str | None:
    if before == _byte_level(use_regex=True) | {"trim_offsets": before.get("trim_offsets")}:
        return _GPT_2
    match before.get("pretokenizers"):
        case [{"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, then]:
            is_plain = then == _byte_level(use_regex=False) | {"trim_offsets": then.get("trim_offsets")}
            return _SPLITS.get(split) if is_plain else None
    return None


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


class _Cutter:
    """Cuts by a pattern whose classes of characters are compared with the library's.

    Python and the library may know different versions of Unicode. So each character that is not ASCII is
    tried when it is first met, and texts that hold one on which the two disagree are left to the library.
    """

    def __init__(self, inner: tokenizers.Tokenizer, template: str, *, is_wide: bool):
        self._inner, self._template, self._is_wide = inner, template, is_wide
        self._find = re.compile(_fill(template, _ASCII)).findall
        self._tried: set[str] = set()
        self._odd: set[str] = set()

    def agrees(self) -> bool:
        """Whether the library cuts ASCII as the pattern does."""
        everything = "".join(map(chr, range(128)))
        neighbours = "".join(map("".join, itertools.product(_TELLING, repeat=3)))
        return all(
            self._library(text) == self._find(text) for text in (everything, neighbours, _CONTRACTIONS)
        )

    def cut(self, text: str) -> list[str] | None:
        if text.isascii():
            return self._find(text)
        characters = set(text)
        if not self._is_wide or not self._are_known(characters):
            return None
        return self._find_wide(text)

    @functools.cached_property
    def _find_wide(self) -> Callable[[str], list[str]]:
        return re.compile(_fill(self._template, _wide_classes())).findall

    def _are_known(self, characters: set[str]) -> bool:
        if new := characters - self._tried:
            self._try(new)
        return self._odd.isdisjoint(characters)

    def _try(self, characters: Iterable[str]) -> None:
        self._tried.update(characters)
        halves = {each for each in characters if unicodedata.category(each) == "Cs"}  # no character
        whole = sorted(set(characters) - halves)
        self._odd |= halves
        if not self._agrees_on("".join(map(_probe, whole))):
            self._odd.update(each for each in whole if not self._agrees_on(_probe(each)))

    def _agrees_on(self, text: str) -> bool:
        return self._library(text) == self._find_wide(text)

    def _library(self, text: str) -> list[str]:
        pieces = self._inner.pre_tokenizer.pre_tokenize_str(text)  # pyright: ignore[reportOptionalMemberAccess]
        return [text[start:end] for _, (start, end) in pieces]


def _probe(character: str) -> str:
    """A text whose words tell the character's class, and whether it passes for a letter of "'s"."""
    return f"a{character}1{character}!{character}'{character} {character}\n"


def _fill(template: str, classes: dict[str, str]) -> str:
    for name, characters in classes.items():
        template = template.replace(name, characters)
    return template


@functools.cache
def _wide_classes() -> dict[str, str]:
    """The classes in the basic plane: letters beyond it are rare, and a pattern with them is slow."""
    wide = {r"\p{L}": _ranges("L"), r"\p{N}": _ranges("N"), r"\s": _WIDE_BLANKS}
    return {name: characters + wide[name] for name, characters in _ASCII.items()}


def _ranges(category: str) -> str:
    """The characters from U+0080 on whose category begins so, as a pattern's ranges."""
    found = [code for code in range(0x80, 0x10000) if unicodedata.category(chr(code))[0] == category]
    runs = itertools.groupby(enumerate(found), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(group) for _, group in runs)]
    return "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ends)

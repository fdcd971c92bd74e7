"""A tokenizer described: its kind, its special tokens, and the objectives that it serves."""

import json
from typing import Any

from flaxmill.data.config import DataConfig
from flaxmill.data.objectives import OBJECTIVE_DATA
from flaxmill.data.special_tokens import lacking_tokens
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.pieces import cut_words, one_line, spell_piece

_BYTE_LEVEL = "ByteLevel"
_SHOWN_SPECIALS = 20
_WORD_WIDTH = 20


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Kind, size, special tokens with roles and ids, normalizer, template, and for each objective the special
    tokens that are lacking (none: it serves it)."""
    parts = json.loads(tokenizer.to_json())
    return {
        "kind": _kind(parts),
        "size": tokenizer.vocab_size,
        "special_tokens": _special_tokens(tokenizer),
        "normalizer": _name_part(parts.get("normalizer"), "normalizers"),
        "pre_tokenizer": _name_part(parts.get("pre_tokenizer"), "pretokenizers"),
        "template": [
            [tokenizer.inner.id_to_token(id_) for id_ in side]
            for side in (tokenizer.template.before, tokenizer.template.after)
        ],
        "objectives": {name: lacking_tokens(tokenizer, name, DataConfig()) for name in OBJECTIVE_DATA},
    }


def format_description(described: dict[str, Any]) -> list[str]:
    """The description as lines."""
    before, after = described["template"]
    template = " ".join([*before, "TEXT", *after]) if before or after else "none"
    lines = [
        f"kind         {described['kind']}",
        f"size         {described['size']:,} ids",
        f"normalizer   {described['normalizer'] or 'none: text is read as it is'}",
        f"words        {described['pre_tokenizer'] or 'the whole text is one'}",
        f"template     {template}",
        "",
        "special tokens",
    ]
    specials = described["special_tokens"]
    for token in specials[:_SHOWN_SPECIALS]:
        lines.append(f"  {token['id']:>7}  {token['text']:20} {', '.join(token['roles'])}".rstrip())
    if len(specials) > _SHOWN_SPECIALS:
        lines.append(f"  and {len(specials) - _SHOWN_SPECIALS} more")
    lines += ["", "objectives"]
    for name, lacking in described["objectives"].items():
        lines.append(f"  {name:22} {'no: it lacks ' + ', '.join(lacking) if lacking else 'yes'}")
    return lines


def format_pieces(tokenizer: Tokenizer, pieces: list[dict[str, Any]]) -> list[str]:
    """A line for each word."""
    width = max((min(len(repr(word["word"])), _WORD_WIDTH) for word in pieces), default=0)
    lines = []
    for word in pieces:
        spelled = (one_line(spell_piece(tokenizer, piece)) for piece in word["pieces"])
        parts = (f"{piece} {id_}" for piece, id_ in zip(spelled, word["ids"], strict=True))
        lines.append(f"{word['word']!r:{width}}  {' '.join(parts)}")
    return lines


def describe_pieces(tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """The words of a text, each with its pieces and their ids."""
    return [
        {"word": word.text, "pieces": list(word.pieces), "ids": list(word.ids)}
        for word in cut_words(tokenizer, text)
    ]


def _kind(parts: dict[str, Any]) -> str:
    kind = parts["model"].get("type", "BPE")
    if kind == "BPE" and any(
        _BYTE_LEVEL in json.dumps(parts.get(name)) for name in ("pre_tokenizer", "decoder")
    ):
        return "byte-level BPE"
    return f"{kind} with bytes for unknown characters" if parts["model"].get("byte_fallback") else kind


def _special_tokens(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """By id."""
    return [
        {
            "id": id_,
            "text": tokenizer.inner.id_to_token(id_),
            "roles": [role for role, of_role in tokenizer.roles.items() if of_role == id_],
        }
        for id_ in sorted(tokenizer.special_ids)
    ]


def _name_part(part: dict[str, Any] | None, members: str) -> str | None:
    """The type of a component with its settings that are on, or the types of a sequence."""
    if part is None:
        return None
    if part.get("type") == "Sequence":
        return ", ".join(str(_name_part(one, members)) for one in part.get(members, [])) or None
    on = [name for name, value in part.items() if value is True]
    return part["type"] + (f" ({', '.join(on)})" if on else "")

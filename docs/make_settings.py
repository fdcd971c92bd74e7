"""Writes into docs/weights.md what becomes of every key of config.json, from the families' own tables.

python docs/make_settings.py
"""

import json
from pathlib import Path
from typing import Any

from flaxmill.model.families.table import FAMILIES

PAGE = Path(__file__).parent / "weights.md"
START, END = "<!-- made: settings -->\n", "<!-- end: settings -->"


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(before + START + make_tables() + END + rest.split(END)[1], encoding="utf-8")


def make_tables() -> str:
    """One table of the keys that all families share, and one of the keys that only some have."""
    shared = _shared()
    lines = ["| in every family | keys |", "| --- | --- |"]
    lines += [f"| {meaning} | {keys} |" for meaning, keys in _rows(shared)]
    lines += ["", "| families | | keys of their own |", "| --- | --- | --- |"]
    having: dict[tuple[str, str], list[str]] = {}
    for family in FAMILIES:
        own = {
            meaning: {key: value for key, value in keys.items() if key not in shared.get(meaning, {})}
            for meaning, keys in _meanings(family).items()
        }
        for row in _rows(own):
            having.setdefault(row, []).append(f"`{family}`")
    lines += [f"| {', '.join(names)} | {meaning} | {keys} |" for (meaning, keys), names in having.items()]
    return "\n".join(lines) + "\n"


def _meanings(family: str) -> dict[str, dict[str, Any]]:
    """{meaning: {key: the only value that it may have, or the key that it stands for}}"""
    settings = FAMILIES[family].settings
    meanings: dict[str, dict[str, Any]] = {"read": dict.fromkeys(settings.read)}
    meanings["read as another key"] = dict(settings.aliases)
    meanings["refused with another value than"] = dict(settings.only)
    return meanings | {
        f"without meaning: {reason}": dict.fromkeys(keys) for reason, keys in settings.unused.items()
    }


def _shared() -> dict[str, dict[str, Any]]:
    first, *others = [_meanings(family) for family in FAMILIES]
    return {
        meaning: {
            key: value
            for key, value in keys.items()
            if all(key in other.get(meaning, {}) and other[meaning][key] == value for other in others)
        }
        for meaning, keys in first.items()
    }


def _rows(meanings: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (meaning, ", ".join(_spelled(meaning, key, value) for key, value in sorted(keys.items())))
        for meaning, keys in meanings.items()
        if keys
    ]


def _spelled(meaning: str, key: str, value: Any) -> str:
    if meaning.startswith("refused"):
        return f"`{key}`: {json.dumps(value)}"
    return f"`{key}` ({value})" if meaning.startswith("read as") else f"`{key}`"


if __name__ == "__main__":
    main()

"""Mutates valid files byte by byte, value by value or line by line, into files that no program writes."""

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]
Change = Callable[[Draw, bytes, Sequence[bytes]], bytes]
"""Draws a change of the bytes; the others are files of the same kind, to take pieces from."""

# A name that begins like this leads out of the directory of a case.
OUTSIDE = "../outside/secret"
MAX_BYTES = 400_000
_DEEP = (b"[" * 20, b'{"a":' * 20)  # from an earlier change: too deep to be changed inside


class Raw(str):
    """JSON text that is written as it is; `json.dumps` would not write it."""


class Members(list):
    """A JSON object as pairs: a name may occur twice."""


NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 255, 65_536, 1_000_000, 10**9, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**308, 10**399, -(10**399)),
    *(0.0, 0.5, 1.0, 2.5, -0.5, 40.0, 1e-320, 1e-8, 1e30, 1e300, 1.7e308, -1e308),
    *(Raw("-0.0"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e309"), Raw("1E400"), Raw("01")),
    *(Raw("9" * 5000), Raw("-" + "9" * 5000), Raw("0." + "3" * 5000), Raw("1" + "0" * 309)),
)
TEXTS: tuple[str, ...] = (
    *(
        "",
        " ",
        "\n",
        "a",
        "A",
        "é",
        "\u2028",
        "\x85",
        "\0",
        "\ufeff",
        "\U0001f600",
        "\x7f",
        "\t",
        "nan",
        "None",
    ),
    *(
        "true",
        "0",
        "-1",
        "1e9",
        "a" * 300,
        "a" * 100_000,
        "ab " * 5000,
        "{}",
        "%s",
        "{0}",
        "[bold]",
        "\x1b[2J",
    ),
    *(OUTSIDE, "/etc/passwd", "..", ".", "/", "~", "~root", "a/b", "a\0b", "../" * 40 + "etc/passwd"),
    *("file:///etc/passwd", "s3://bucket/key", "http://localhost:1/x", "con", "-", "--help", "*", "[", "?"),
)
HALVES = (Raw('"\\ud83d"'), Raw('"a\\udc00b"'), Raw('"\\ud83d\\ud83d"'))
NESTED = tuple(
    Raw(opening * depth + inner + closing * depth)
    for depth in (20, 129, 500, 100_000)
    for opening, inner, closing in (("[", "", "]"), ('{"a":', "1", "}"), ("[[", "null", "]]"))
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, [], Members(), [None], [[]], [0], ["a"], [True], Members([("", None)])),
    *(Members([("a", 1)]), Members([("a", 1), ("a", 2)]), [Members()], [1, "a"], [[1, 2], [3]]),
    *(Raw(""), Raw("undefined"), Raw("'a'"), Raw('"'), Raw("[1,]"), Raw('"\\x"'), Raw('"\\u12"'), Raw("1 2")),
)
BYTES: tuple[bytes, ...] = (
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b"\n",
    ),
    *(
        b"\r\n",
        b"\t",
        b" ",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\xc2\xa0",
        b"\x0b",
        b"\x0c",
        b"\x1a",
        b"\x1b[31m",
    ),
    *(b'"', b"'", b",", b";", b"|", b":", b"{", b"}", b"[", b"]", b"\\", b"\\ud83d", b"#", b"-", b"0", b"9"),
    *(b"1e999", b"NaN", b"null", b"/", b"../", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"BZh9", b"\xfd7zXZ\x00"),
    *(b"\x80", b"\x7f", b"\xff" * 8, b"\0" * 8, b"\x28\xb5\x2f\xfd", b'""', b"\xf0\x9f\x98\x80"),
)


def mutate(draw: Draw, changes: Sequence[Change], data: bytes, others: Sequence[bytes]) -> bytes:
    """The file after one to three of the changes."""
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        data = draw(st.sampled_from(changes))(draw, data, others)[:MAX_BYTES]
    return data


def change_bytes(draw: Draw, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flips, cuts, inserts, repeats, moves or splices a piece."""
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    end = min(end, start + draw(st.sampled_from((1, 4, 64, MAX_BYTES))))
    before, piece, after = data[:start], data[start:end], data[end:]
    match draw(st.sampled_from(("flip", "insert", "cut", "repeat", "replace", "truncate", "splice", "swap"))):
        case "flip" if piece:
            return before + bytes([piece[0] ^ 1 << draw(st.integers(0, 7))]) + piece[1:] + after
        case "insert":
            return before + draw(st.sampled_from(BYTES)) + piece + after
        case "cut":
            return before + after
        case "repeat":
            return before + piece * draw(st.sampled_from((2, 3, 50, 1000))) + after
        case "replace":
            return before + draw(st.sampled_from(BYTES) | st.binary(max_size=8)) + after
        case "truncate":
            return before
        case "splice":
            other = draw(st.sampled_from(others))
            return before + other[draw(st.integers(0, len(other))) :]
        case "swap":
            return after + piece + before
    return before + piece


def change_lines(draw: Draw, data: bytes, others: Sequence[bytes]) -> bytes:
    """Drops, doubles, moves, empties or joins whole lines, or takes one from another file."""
    lines = data.splitlines(keepends=True) or [b""]
    place = draw(st.integers(0, len(lines) - 1))
    match draw(st.sampled_from(("drop", "double", "first", "blank", "join", "other", "returns", "last"))):
        case "drop":
            del lines[place]
        case "double":
            lines[place] *= draw(st.sampled_from((2, 200)))
        case "first":
            lines.insert(0, lines.pop(place))
        case "blank":
            lines[place] = draw(st.sampled_from((b"\n", b" \n", b"\t\n", b"\r\n", b"\xc2\xa0\n", b"\0\n")))
        case "join":
            lines[place] = lines[place].rstrip(b"\r\n")
        case "other":
            lines.insert(
                place, draw(st.sampled_from(draw(st.sampled_from(others)).splitlines(True) or [b""]))
            )
        case "returns":
            lines = [line.replace(b"\n", draw(st.sampled_from((b"\r", b"\r\n", b"\n\n")))) for line in lines]
        case "last":
            lines = lines[: place + 1]
    return b"".join(lines)


def change_json(names: Sequence[str] = (), texts: Sequence[str] = ()) -> Change:
    """A change of one value in a JSON text, or in one line if each line is a JSON text.

    Args:
      names: keys that readers know; they are added, or replace others.
      texts: strings that mean something to readers.
    """

    def change(draw: Draw, data: bytes, others: Sequence[bytes]) -> bytes:
        lines = data.splitlines(keepends=True)
        if (value := _parse(data)) is not None:
            place, lines = 0, [data]
        elif lines and (value := _parse(lines[place := draw(st.integers(0, len(lines) - 1))])) is not None:
            pass
        else:
            return change_bytes(draw, data, others)
        end = lines[place][len(lines[place].rstrip(b"\r\n")) :]
        lines[place] = write_json(_changed(draw, value, names, texts)).encode("utf-8", "replace") + end
        return b"".join(lines)

    return change


def write_json(value: Any) -> str:
    """JSON of a value with Raw texts and Members in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Members):
        return "{" + ", ".join(f"{write_json(name)}: {write_json(one)}" for name, one in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write_json, value)) + "]"
    if isinstance(value, int) and value.bit_length() > 13_000:  # 4,000 digits; Python refuses to write more
        return "9" * 5000
    return json.dumps(value)


def change_header(change: Change) -> Change:
    """A change of a safetensors file: mostly of its header's JSON by `change`, else of its length or rest."""

    def change_it(draw: Draw, data: bytes, others: Sequence[bytes]) -> bytes:
        header, rest = _split_safetensors(data)
        how = draw(st.sampled_from(("header", "header", "header", "length", "rest", "padding")))
        if how == "length":
            length = draw(st.sampled_from((0, 1, 8, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, len(header) + 1)))
            return struct.pack("<Q", length) + header + rest
        if how == "rest":
            rest = change_bytes(draw, rest, others)
        elif how == "padding":
            header += draw(st.sampled_from((b" ", b" " * 8, b"\n", b"\0", b"{}")))
        else:
            header = change(draw, header, [_split_safetensors(other)[0] for other in others])
        return struct.pack("<Q", len(header)) + header + rest

    return change_it


def _split_safetensors(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def _parse(data: bytes) -> Any:
    if any(mark in data for mark in _DEEP):
        return None
    try:
        return json.loads(data, object_pairs_hook=Members, parse_int=lambda text: int(text[:400]))
    except (ValueError, RecursionError):
        return None


def _changed(draw: Draw, value: Any, names: Sequence[str], texts: Sequence[str]) -> Any:
    """The value with one change somewhere in it."""
    if isinstance(value, list) and value and draw(st.sampled_from((True, True, True, False))):
        place = draw(st.integers(0, len(value) - 1))
        if not isinstance(value, Members):
            return [*value[:place], *_changed_item(draw, value[place], names, texts), *value[place + 1 :]]
        members = [_named(pair) for pair in _changed_item(draw, value[place], names, texts)]
        return Members([*value[:place], *members, *value[place + 1 :]])
    if isinstance(value, Members) and draw(st.booleans()):
        added = (draw(_names(value, names)), draw(any_value(texts)))
        place = draw(st.sampled_from((0, len(value))))
        return Members([*value[:place], added, *value[place:]])
    return _replaced(draw, value, texts)


def _changed_item(draw: Draw, item: Any, names: Sequence[str], texts: Sequence[str]) -> list[Any]:
    """What replaces an item, or a (name, value) pair: none, one or more of them."""
    how = draw(st.sampled_from(("inside", "inside", "inside", "inside", "drop", "double", "many", "rename")))
    name, value = item if isinstance(item, tuple) else (None, item)
    match how:
        case "drop":
            return []
        case "double":
            return [item, item]
        case "many":
            return [item] * draw(st.sampled_from((3, 100)))
        case "rename" if name is not None:
            return [(draw(_names(Members([item]), names)), value)]
    changed = _changed(draw, value, names, texts)
    return [changed if name is None else (name, changed)]


def _named(pair: Any) -> tuple[Any, Any]:
    return pair if isinstance(pair, tuple) else ("a", pair)


def _names(value: Members, names: Sequence[str]) -> st.SearchStrategy[Any]:
    known = [*names, *(name for name, _ in value)]
    return st.sampled_from(known or ["a"]) | st.sampled_from(TEXTS) | st.sampled_from(HALVES)


def _replaced(draw: Draw, value: Any, texts: Sequence[str]) -> Any:
    """Another value in this one's place, often one that is near it."""
    near: list[Any] = [[value], Members([("a", value)]), str(value)[:1000]]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        near += [value + 1, value - 1, -value, value * 2, float(value), value + 0.5, value // 2]
    if isinstance(value, str):
        near += [
            value + "a",
            value.upper(),
            value[:-1],
            value * 20,
            value + "\n",
            value + "\u2028",
            "../" + value,
        ]
    if isinstance(value, list) and not isinstance(value, Members):
        near += [value[::-1], value * 2, value[:-1], value[:1]]
    return draw(st.sampled_from(near) | any_value(texts) | any_value(texts))


def any_value(texts: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """A value of any kind; `texts` mean something to a reader."""
    known = [st.sampled_from(texts)] if texts else []
    plain = (st.sampled_from(values) for values in (NUMBERS, VALUES, TEXTS, HALVES, NESTED))
    return st.one_of(*plain, *known)

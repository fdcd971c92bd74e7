"""Tells what a file's bytes are if they are not UTF-8, and gives the command that converts them."""

import shlex
from pathlib import PurePath

# The longest first: UTF-32's mark begins with UTF-16's.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# First bytes that no text has.
_SIGNATURES = {
    b"\x1f\x8b": ("a gzip archive", ".gz"),
    b"\xfd7zXZ\x00": ("an xz archive", ".xz"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", ".zst"),
    b"BZh91AY&SY": ("a bzip2 archive", ".bz2"),
    b"PK\x03\x04": ("a zip archive", None),
    b"\x93NUMPY": ("a NumPy array", None),
    b"%PDF-": ("a PDF", None),
    b"PAR1\x15": ("a Parquet table", ".parquet"),
    b"ARROW1\x00": ("an Arrow table", None),
}
_TO_STDOUT = {".gz": "gzip -dc", ".bz2": "bzip2 -dc", ".xz": "xz -dc", ".zst": "zstd -dc"}
_LOOKED_AT = 512


def check_text(start: bytes, path: PurePath) -> None:
    """Raises ValueError, saying what the file is, where its first bytes tell that it is not UTF-8 text."""
    for signature, (kind, suffix) in _SIGNATURES.items():
        if start.startswith(signature):
            fix = f"give it the suffix {suffix}" if suffix else "give the text that it holds"
            raise ValueError(f"{path} is {kind}, as its first bytes say, and not text; {fix}")
    if encoding := _wide_encoding(start[:_LOOKED_AT]):
        raise ValueError(
            f"{path} is {encoding}, as its first bytes say, and is read as UTF-8; "
            f"convert it: {conversion(path, encoding)}"
        )


def not_utf8(place: str, data: bytes, error: UnicodeDecodeError, path: PurePath) -> ValueError:
    """The error for bytes that are not UTF-8; `place` says where they are and which byte is wrong."""
    byte = f"{place} (0x{data[error.start]:02x})"
    if b"\0" in data:
        return ValueError(f"{byte}, and holds NULs: it is not text, whatever its suffix says; give text")
    cut = "if it was cut off here, restore it; " if error.reason == "unexpected end of data" else ""
    if not data[: error.start].isascii():  # bytes before it are UTF-8 characters, which is no accident
        return ValueError(f"{byte}; {cut}correct it, or drop it: {conversion(path, 'UTF-8', '-c ')}")
    has_controls = any(0x80 <= byte < 0xA0 for byte in data)  # Latin-1 has controls there; nobody writes them
    encoding = "CP1252" if has_controls and _decodes(data, "cp1252") else "LATIN1"
    return ValueError(f"{byte}; {cut}if it is {encoding}, convert it: {conversion(path, encoding)}")


def conversion(path: PurePath, encoding: str, flags: str = "") -> str:
    """A command that writes a copy in UTF-8 beside the file."""
    tool = _TO_STDOUT.get(path.suffix.lower())
    plain = path.with_suffix("") if tool else path
    target = shlex.quote(str(plain.with_name(f"{plain.stem}.utf8{plain.suffix}")))
    if tool:
        return f"{tool} {shlex.quote(str(path))} | iconv {flags}-f {encoding} -t UTF-8 > {target}"
    return f"iconv {flags}-f {encoding} -t UTF-8 {shlex.quote(str(path))} > {target}"


def _wide_encoding(start: bytes) -> str | None:
    """The encoding of two or four bytes per character, if the bytes show one by their mark or their NULs."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    # It is more than enough if half of the characters are ASCII: no UTF-8 has NULs at every second byte.
    even, odd = start[::2], start[1::2]
    if len(start) < 4 or even.count(0) + odd.count(0) < len(start) // 4:
        return None
    if not even.count(0):
        return "UTF-16LE"
    return "UTF-16BE" if not odd.count(0) else None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True

"""Text that is not UTF-8 is named by its encoding, and the command in the error converts it."""

import gzip
import subprocess

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.files.rows import read_lines
from flaxmill.data.files.tables import read_csv
from flaxmill.data.text.corpora import text_sources

TABLE = "text,label\ncafé \u2013 naïve,b\nthe mill,a\n"


def convert(message: str) -> str:
    """Runs the command that an error advises; returns the file that it writes."""
    command = message.partition("convert it: ")[2]
    assert command, message
    subprocess.run(command, shell=True, check=True, capture_output=True)
    return command.rpartition("> ")[2].strip("'")


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("cp1252", "CP1252"),
        ("latin-1", "LATIN1"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_advice_on_an_encoding_gives_a_file_that_is_read(tmp_path, encoding, named, suffix):
    text = TABLE.replace("\u2013", "-") if encoding == "latin-1" else TABLE
    path = tmp_path / f"a table.csv{suffix}"
    path.write_bytes(gzip.compress(text.encode(encoding)) if suffix else text.encode(encoding))
    with pytest.raises(ValueError, match=rf" -f {named} -t UTF-8 ") as caught:
        list(read_csv(path))
    assert "\n" not in str(caught.value)
    rows = list(read_csv(tmp_path / convert(str(caught.value))))
    assert [row.values["text"] for row in rows] == [text.splitlines()[1].partition(",")[0], "the mill"]


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "UTF-16"), ("latin-1", "LATIN1")])
def test_the_advice_on_a_text_is_as_good(tmp_path, encoding, named):
    path = tmp_path / "a.txt"
    path.write_bytes("café.\n".encode(encoding))

    def texts(name):
        sources = text_sources(DataConfig(), [str(name)], "data.files", lambda line: None)
        return [document.text for document in sources.read()]

    with pytest.raises(ValueError, match=rf"-f {named} ") as caught:
        texts(path)
    assert texts(convert(str(caught.value))) == ["café.\n"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (gzip.compress(b"text", mtime=0), r"is a gzip archive, .* give it the suffix \.gz$"),
        (b"PK\x03\x04\x14\x00", r"is a zip archive, as its first bytes say, and not text; give the text"),
        (b"%PDF-1.7\n", r"is a PDF, as its first bytes say"),
        (b"\x93NUMPY\x01\x00", r"is a NumPy array"),
    ],
)
def test_a_file_that_its_first_bytes_name_is_refused(tmp_path, start, message):
    path = tmp_path / "a.txt"
    path.write_bytes(start + bytes(100))
    with pytest.raises(ValueError, match=message):
        list(read_lines(path))


def test_a_file_that_ends_inside_a_character_may_have_been_cut_off(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text\ncafé".encode()[:-1])
    with pytest.raises(
        ValueError, match=r"^line 2 of .* at byte 3 \(0xc3\); if it was cut off here, restore it; if"
    ):
        list(read_lines(path))


def test_a_stray_byte_of_utf8_can_be_dropped_as_the_advice_says(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text\ncafé\n".encode() + b"na\xc3\xafve \xff!\n")
    with pytest.raises(
        ValueError, match=r"^line 3 of .* at byte 7 \(0xff\); correct it, or drop it: iconv"
    ) as caught:
        list(read_csv(path))
    # Some versions of iconv say by their exit code that they dropped a byte.
    subprocess.run(str(caught.value).partition("drop it: ")[2], shell=True, check=False)
    assert [row.values["text"] for row in read_csv(tmp_path / "a.utf8.csv")] == ["café", "naïve !"]


def test_binary_data_are_not_taken_for_another_encoding(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"not UTF-8 at byte 128 \(0x80\), and holds NULs: it is not text"):
        list(text_sources(DataConfig(), [str(path)], "data.files", lambda line: None).read())


@pytest.mark.parametrize("text", ["é", "", "a", "\0\0\0\0", "a\0b", "漢字" * 300])
def test_other_texts_are_taken_for_utf8(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    sources = text_sources(DataConfig(), [str(path)], "data.files", lambda line: None)
    assert "".join(document.text for document in sources.read()) == text

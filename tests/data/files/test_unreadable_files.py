"""Whatever bytes a file holds, its readers give rows, or one line that says what is wrong."""

import bz2
import gzip
import json
import lzma

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.example import make_examples
from flaxmill.data.examples.reading import find_examples
from flaxmill.data.text.corpora import text_sources

PIECES = [
    *(b"text", b"label", b"question", b"context", b"answers", b"data", b"paragraphs", b"qas", b"id", b"a\tO"),
    *(
        b",",
        b";",
        b"|",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b"'",
        b"\\",
        b"\\ud83d",
        b" ",
        b"\xc2\xa0",
        b"\xe3\x80\x80",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"null",
        b"NaN",
        b"1e999",
        b"-1",
        b"true",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(
        b"#",
        b"1",
        b"-DOCSTART-",
        b'{"text": "a", "label": "b"}\n',
        b'"text": ',
        b'"label": ',
        b"\xff\xfe",
        b"\x1f\x8b",
    ),
]
BYTES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=24).map(b"".join)
READERS = {
    "classification": (".csv", ".tsv", ".jsonl", ".json", ".parquet"),
    "token_classification": (".conll", ".jsonl", ".json"),
    "question_answering": (".json", ".jsonl"),
    "seq2seq": (".csv", ".json"),
    "text": (".txt", ".csv", ".jsonl", ".json", ".parquet", ".txt.gz", ".jsonl.xz", ".csv.bz2", ".txt.zst"),
}
CASES = [(objective, suffix) for objective, suffixes in READERS.items() for suffix in suffixes]


def read_texts(path, objective) -> list[str] | ValueError:
    """All texts of the file, or why there are none."""
    config = DataConfig(files=(str(path),))
    try:
        if objective == "text":
            sources = text_sources(config, config.files, "data.files", lambda line: None)
            return [one.text for one in sources.read()]
        rows = find_examples(config, "files", objective, lambda line: None).read()
        examples = list(make_examples(rows, config, objective))
    except ValueError as error:
        return error
    return [text for one in examples for text in (*one.texts, json.dumps(one.wanted))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "suffix"), CASES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES, packs=st.booleans())
@example(data=b"[" * 100_000, packs=True)
@example(data=b'{"text": ' * 5_000 + b"1" + b"}" * 5_000, packs=True)
def test_any_bytes_are_rows_or_one_line(folder, objective, suffix, data, packs):
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}.get(
        suffix[-3:] if packs else ""
    )
    path = folder / f"a{suffix}"
    path.write_bytes(data if pack is None else pack(data))
    found = read_texts(path, objective)
    if isinstance(found, ValueError):
        assert type(found) is ValueError  # the command line shows others with a traceback
        assert "\n" not in str(found)
        assert str(path) in str(found)
    else:
        assert all(text.encode() and text.strip(" \t\n") for text in found)
